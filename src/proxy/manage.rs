//! Calls of the key API: admitted here, answered by `admin` on the control runtime.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::admin::Call;
use crate::http::Refusal;

use super::account::Account;
use super::body::{Body, is_timeout};
use super::{Door, Visit, whole};

const BODY_BYTES_MAX: usize = 64 << 10;
/// A call that the store holds up longer than this is answered with 503.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Door {
    pub(super) async fn manage(
        &self,
        visit: Visit<'_>,
        body: Incoming,
        account: &mut Account,
    ) -> Result<Response<Body>, Refusal> {
        account.enter_managed(visit.gate);
        let caller = self.stranger_or_holder(&visit, account).await?;
        if let Some(Err(wait)) = caller.bucket().map(|bucket| bucket.take(visit.started)) {
            let status = visit.gate.requests.limit_status.into();
            return Err(Refusal::KeyRateLimited { wait, status });
        }
        self.proxy.keyring.note_use(&caller);
        self.proxy.metrics.admission(crate::metrics::Outcome::Admitted);
        let deadline = visit.started + ANSWER_TIMEOUT;
        let collected = visit.exchange.bounded(deadline, collect(body)).await;
        let body = collected.map_err(|_| Refusal::BodyTimeout)??;
        account.body_unread = false;
        let admin = Arc::clone(&visit.gate.admin);
        let call = Call { parts: visit.parts, body, caller, address: visit.origin.client };
        let answering = self.proxy.control.spawn(async move { admin.answer(call).await });
        let answered = visit.exchange.bounded(deadline, answering).await.map_err(|_| Refusal::StoreUnavailable)?;
        let response = answered.map_err(|panic| {
            tracing::error!(error = %panic, "a call of the key API failed");
            Refusal::Internal
        })??;
        account.status = response.status().as_u16();
        Ok(whole(response))
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Refusal> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge { max: BODY_BYTES_MAX as u64 }),
        Err(error) if is_timeout(&*error) => Err(Refusal::BodyTimeout),
        Err(_) => Err(Refusal::BodyBroken),
    }
}
