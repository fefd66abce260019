//! The closed sets of label values: what can be counted is written here, and nothing a client sends can add to it.

/// Declares an enum whose variants are label values, with `EVERY` variant and its text.
macro_rules! labels {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$note])* $variant,)* }

        impl $name {
            pub const EVERY: &'static [Self] = &[$(Self::$variant,)*];
            pub(super) const COUNT: usize = Self::EVERY.len();

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

labels! {
    /// How the admission of one request ended: one value for each way in and each reason to refuse.
    pub enum Outcome {
        AddressLimited = "address_limited",
        Admitted = "admitted",
        /// Without a key, on a public route.
        AdmittedPublic = "admitted_public",
        BodyTooLarge = "body_too_large",
        CredentialsConflicting = "credentials_conflicting",
        CredentialsMalformed = "credentials_malformed",
        CredentialsMissing = "credentials_missing",
        ExpectationFailed = "expectation_failed",
        HostRefused = "host_refused",
        Internal = "internal",
        KeyConcurrencyLimited = "key_concurrency_limited",
        KeyRateLimited = "key_rate_limited",
        KeyUnknown = "key_unknown",
        MalformedPath = "malformed_path",
        MalformedRequest = "malformed_request",
        MethodNotAllowed = "method_not_allowed",
        RouteClosed = "route_closed",
        RouteRateLimited = "route_rate_limited",
        RouteUnknown = "route_unknown",
        ScopeMissing = "scope_missing",
        StoreUnavailable = "store_unavailable",
        TimedOut = "timed_out",
    }
}

labels! {
    /// Which limiter refused.
    pub enum LimitKind {
        Address = "address",
        KeyConcurrency = "key_concurrency",
        KeyRate = "key_rate",
        RouteRate = "route_rate",
    }
}

labels! {
    /// What went wrong with an upstream.
    pub enum UpstreamFailure {
        /// The response body ended before its end.
        BodyCut = "body_cut",
        Connect = "connect",
        ConnectTimeout = "connect_timeout",
        /// A response that cannot be framed safely.
        InvalidResponse = "invalid_response",
        PoolExhausted = "pool_exhausted",
        /// The connection ended before the response began.
        Reset = "reset",
        ResponseTimeout = "response_timeout",
    }
}

labels! {
    /// What was asked of the store.
    pub enum StoreOperation {
        ChangeCommit = "change_commit",
        ChangesRead = "changes_read",
        KeyRead = "key_read",
        KeyScan = "key_scan",
        LastUsedFlush = "last_used_flush",
    }
}

labels! {
    /// What an audited change did to a key.
    pub enum AuditOperation {
        Create = "create",
        Delete = "delete",
        Update = "update",
    }
}
