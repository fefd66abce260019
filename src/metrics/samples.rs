//! Numbers and labels in the form that the encoder takes.

use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{Bounds, Observations};

pub(super) fn counter(name: &str, help: &str, samples: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, samples)
}

pub(super) fn gauge(name: &str, help: &str, samples: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, samples)
}

pub(super) fn histogram(name: &str, help: &str, samples: impl IntoIterator<Item = Metric>) -> MetricFamily {
    family(name, help, MetricType::HISTOGRAM, samples)
}

fn family(name: &str, help: &str, kind: MetricType, samples: impl IntoIterator<Item = Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples.into_iter().collect());
    family
}

/// A sample of a counter.
pub(super) fn count(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(float(value));
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

/// A sample of a gauge.
pub(super) fn level(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

/// A sample of a histogram.
pub(super) fn spread(labels: &[(&str, &str)], bounds: &Bounds, observations: &Observations) -> Metric {
    let mut cumulative = 0;
    let buckets = bounds.iter().zip(observations.buckets).map(|(bound, in_bucket)| {
        cumulative += in_bucket;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(observations.buckets.iter().sum());
    histogram.set_sample_sum(observations.sum.as_secs_f64());
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

// Exact up to 2^53, which is what a sample can hold.
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// A sum of additions and subtractions that were read one after another may be below zero for a moment.
pub(super) fn signed(value: u64) -> f64 {
    value.cast_signed().max(0) as f64
}
