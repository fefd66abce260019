//! The way of one request: its turn, its target, and another attempt where that is safe.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};

use super::balance::Positions;
use super::body::ResponseBody;
use super::queue::Place;
use super::retry::Again;
use super::standing::{Fault, Role};
use super::target::{Failure, Via};
use super::{RequestContent, Upstream, UpstreamError, pool};
use crate::http::framing::interim::Interims;
use crate::metrics::{Retry, UpstreamFailure};

/// What a request and whoever waits for its response tell each other.
#[derive(Default)]
pub struct Blame {
    is_laid: AtomicBool,
    is_queued: AtomicBool,
    /// When its turn came, if it had to wait for that.
    turn: OnceLock<Instant>,
    interims: Interims,
}

impl Blame {
    /// Says, before the wait is given up, that the target is to blame: it has had the time that it was owed.
    pub fn lay(&self) {
        self.is_laid.store(true, Ordering::Relaxed);
    }

    /// When the request left the queue; now while it is there. `None`: it never was, and has been the target's from the
    /// start.
    pub fn turn(&self) -> Option<Instant> {
        self.turn.get().copied().or_else(|| self.is_queued.load(Ordering::Relaxed).then(Instant::now))
    }

    /// The interim responses that are for the client, as they come: there are new ones when [`Upstream::send`] was polled.
    pub fn interims(&self) -> &Interims {
        &self.interims
    }

    pub(super) fn wait_for_turn(&self) {
        self.is_queued.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_turn(&self) {
        let _ = self.turn.set(Instant::now());
    }
}

/// What a response keeps until its body was read: a connection, and the request's place among those that run. Dropped
/// without [`Lease::finish`], the connection closes; one that others use ends this exchange alone.
pub struct Lease {
    connection: pool::Lease,
    _place: Option<Place>,
}

impl Lease {
    /// Gives the connection back, after the response's `body` was read to its end. One that is not clean is closed instead.
    pub fn finish(self, body: &mut ResponseBody) {
        self.connection.finish(body);
    }
}

type Answer<L> = (Response<ResponseBody>, L);

impl Upstream {
    /// Sends one request from worker number `worker` and waits for the head of its response. The body streams on; the
    /// [`Lease`] must be given back with [`Lease::finish`] once it was read to its end.
    ///
    /// The request has a place of its own, since each step of the way would copy it, and keep room for it. May wait for
    /// its turn first (`concurrency`). Waits for a response without end: whoever gives up says with `blame`
    /// whether that is the target's fault. Cancel-safe: dropped, it closes the connection that it used.
    ///
    /// # Errors
    /// [`UpstreamError`] of the last attempt.
    pub async fn send<B: RequestContent>(
        &self,
        request: Box<Request<B>>,
        worker: usize,
        blame: &Blame,
    ) -> Result<Answer<Lease>, UpstreamError> {
        let place = match &self.queue {
            Some(queue) => Some(queue.enter(blame).await?),
            None => None,
        };
        self.budget.earn(worker);
        let mut course = Course {
            upstream: self,
            worker,
            blame,
            is_resent: false,
            tried: Positions::default(),
            attempts_left: self.settings.retry.attempts.get(),
        };
        let mut next = self.first(request)?;
        loop {
            next = match course.attempt(next).await {
                Ok((response, connection)) => return Ok((response, Lease { connection, _place: place })),
                Err((position, failure)) => course.again(position, failure)?,
            };
        }
    }

    /// Where a request goes first: to a target that is due for a trial, else to one that is open, else to one that at
    /// least takes connections.
    fn first<B>(&self, request: Box<Request<B>>) -> Result<Next<B>, UpstreamError> {
        let open = self.open();
        let via = Via::Pool;
        if open.len() < self.targets.len() {
            let now = Instant::now();
            if let Some(position) = self.targets.iter().position(|target| target.standing.takes_trial(now)) {
                return Ok(Next { position, role: Role::Trial, via, request });
            }
        }
        let last_resort = || self.targets.iter().position(|target| target.standing.is_last_resort());
        match self.pick(open).or_else(last_resort) {
            Some(position) => Ok(Next { position, role: Role::Regular, via, request }),
            None => Err(UpstreamError::Unavailable { wait: self.back_in() }),
        }
    }

    fn pick(&self, positions: Positions) -> Option<usize> {
        self.settings.balance.pick(positions, |position| self.targets[position].in_flight())
    }

    fn open(&self) -> Positions {
        let is_open = |position: &usize| self.targets[*position].standing.is_open();
        (0..self.targets.len()).filter(is_open).collect()
    }

    /// When a target may be back that is left out; the next check decides about one that failed them.
    fn back_in(&self) -> Duration {
        let (now, interval) = (Instant::now(), self.settings.health.interval);
        let waits = self.targets.iter().map(|target| match target.standing.back_in(now) {
            Some(wait) if target.standing.is_healthy() => wait,
            _ => interval,
        });
        waits.min().unwrap_or(interval)
    }

    fn failed(&self, position: usize, failure: UpstreamFailure, fault: Option<Fault>, role: Role) {
        let standing = &self.targets[position].standing;
        standing.metrics.failed(failure);
        match fault {
            Some(fault) => self.fault(position, fault, role),
            None => self.given_up(position, role),
        }
    }

    /// The attempt came to nothing, for no fault of the target's.
    fn given_up(&self, position: usize, role: Role) {
        if role == Role::Trial {
            self.targets[position].standing.untried();
        }
    }

    fn fault(&self, position: usize, fault: Fault, role: Role) {
        let target = &self.targets[position];
        let is_alone = self.open().without([position].into_iter().collect()).is_empty();
        if let Some(time) = target.standing.failed(fault, role, is_alone, &self.settings.eject) {
            tracing::warn!(upstream = self.name, target = %target.url, ?time, "target is left out for a while");
        }
    }

    fn answered(&self, position: usize, status: StatusCode, role: Role) {
        let target = &self.targets[position];
        target.standing.metrics.answered(status.as_u16());
        if self.settings.eject.statuses.iter().any(|statuses| statuses.include(status)) {
            self.fault(position, Fault::Faulty, role);
        } else if target.standing.answered() {
            tracing::info!(upstream = self.name, target = %target.url, "target is back");
        }
    }
}

/// The next attempt of a request.
struct Next<B> {
    position: usize,
    role: Role,
    via: Via,
    request: Box<Request<B>>,
}

/// One request and its attempts.
struct Course<'c> {
    upstream: &'c Upstream,
    worker: usize,
    blame: &'c Blame,
    /// Whether it was sent again though some of it had been sent.
    is_resent: bool,
    tried: Positions,
    attempts_left: u32,
}

impl Course<'_> {
    async fn attempt<B: RequestContent>(&mut self, next: Next<B>) -> Result<Answer<pool::Lease>, (usize, Failure<B>)> {
        let Next { position, role, via, request } = next;
        let is_repeated = !self.tried.is_empty();
        self.attempts_left = self.attempts_left.saturating_sub(1);
        let mut attempt = Attempt { upstream: self.upstream, position, role, blame: self.blame, is_settled: false };
        let sent = self.upstream.targets[position].send(request, self.worker, via, &self.blame.interims).await;
        attempt.is_settled = true;
        drop(attempt);
        match &sent {
            Ok((response, _)) => self.upstream.answered(position, response.status(), role),
            Err(Failure { error, .. }) if error.is_of_request() => self.upstream.given_up(position, role),
            Err(Failure { error, .. }) => self.upstream.failed(position, error.kind(), Fault::of(error), role),
        }
        if is_repeated {
            self.upstream.metrics.retried(if sent.is_ok() { Retry::Answered } else { Retry::Failed });
        }
        sent.map_err(|failure| (position, failure))
    }

    /// The attempt after one at `position` that failed; or that attempt's error, when there is to be none.
    fn again<B>(&mut self, position: usize, failure: Failure<B>) -> Result<Next<B>, UpstreamError> {
        self.tried.insert(position);
        if self.attempts_left == 0 {
            return Err(failure.error);
        }
        let (error, again) = Again::after(failure, &mut self.is_resent);
        let upstream = self.upstream;
        let other = upstream.pick(upstream.open().without(self.tried));
        let (position, request) = match (again, other) {
            (Again::Elsewhere(request), Some(other)) => return Ok(Next::repeated(other, request)),
            (Again::Anywhere(request), other) => (other.unwrap_or(position), request),
            (Again::Elsewhere(_) | Again::Never, _) => return Err(error),
        };
        if !upstream.budget.spend(self.worker) {
            upstream.metrics.retried(Retry::OverBudget);
            return Err(error);
        }
        Ok(Next::repeated(position, request))
    }
}

impl<B> Next<B> {
    fn repeated(position: usize, request: Box<Request<B>>) -> Self {
        // What broke one pooled connection may have broken them all.
        Self { position, role: Role::Regular, via: Via::New, request }
    }
}

/// An attempt that is under way: when it is dropped, somebody stopped waiting.
struct Attempt<'a> {
    upstream: &'a Upstream,
    position: usize,
    role: Role,
    blame: &'a Blame,
    is_settled: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        if self.blame.is_laid.load(Ordering::Relaxed) {
            self.upstream.failed(self.position, UpstreamFailure::ResponseTimeout, Some(Fault::Faulty), self.role);
        } else {
            self.upstream.given_up(self.position, self.role);
        }
    }
}
