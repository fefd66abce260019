//! Calls of the key API: admitted here, answered by `admin` on the control runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::admin;
use crate::http::Refusal;
use crate::http::headers::Origin;
use crate::keyring::Holder;
use crate::metrics::Outcome;
use crate::policy;
use crate::route::Path;
use crate::server::{Exchange, Incoming, Invitation};

use super::Door;
use super::account::Account;
use super::admit::{Head, Trail, check_opt_ins, limit_key};
use super::body::{Body, is_timeout};
use super::gate::Gate;

const BODY_BYTES_MAX: usize = 64 << 10;
/// A call that the store holds up longer than this is answered with 503.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A call of the key API by a valid key.
pub(super) struct Call<'c> {
    pub(super) gate: &'c Gate,
    pub(super) exchange: &'c Exchange,
    pub(super) parts: Parts,
    pub(super) origin: Origin,
    pub(super) caller: Arc<Holder>,
    /// The keyring's before the key was looked up.
    pub(super) epoch: u64,
}

impl Door {
    /// Admits a call: any valid key may ask, and `admin` decides what it gets.
    pub(super) async fn admit_call(
        &self,
        gate: &Gate,
        head: Head<'_>,
        account: &mut Account,
    ) -> Result<Arc<Holder>, Refusal> {
        let path = Path::parse(head.parts.uri.path()).map_err(Refusal::MalformedPath)?;
        check_opt_ins(false, false, &path)?;
        let mut trail = Trail::default();
        let caller = self.proxy.holder(gate, head, &mut trail).await;
        account.follow(&trail);
        let caller = caller?;
        account.slot = limit_key(&caller, &gate.allowance, gate.requests.limit_status.into(), head.now)?;
        self.proxy.keyring.note_use(&caller, head.now);
        account.admit(Outcome::Admitted);
        Ok(caller)
    }

    pub(super) async fn manage(
        &self,
        call: Call<'_>,
        body: Incoming,
        account: &mut Account,
    ) -> Result<Response<Body>, Refusal> {
        let Call { gate, exchange, parts, origin, caller, epoch } = call;
        let deadline = account.started + ANSWER_TIMEOUT;
        gate.admin.admit(&parts, &caller)?;
        let collecting = Instant::now();
        let any_key = self.proxy.running.any_key();
        let permit = policy::authorize(any_key, Some(Arc::clone(&caller)))?;
        let run = account.run.insert(self.proxy.running.note(self.worker, permit, any_key, epoch));
        let collected = run.unless_lost(exchange.bounded(deadline, collect(body, exchange.invitation()))).await?;
        let body = collected.map_err(|_| Refusal::BodyTimeout)??;
        // From here on the call may be what deletes its own key.
        account.run = None;
        account.elsewhere = collecting.elapsed();
        account.body_unread = false;
        // The body may have been long in coming: the call is judged by what the key is and holds now.
        let caller = match self.proxy.keyring.present(&caller).await {
            Ok(Some(caller)) => caller,
            Ok(None) => return Err(Refusal::KeyUnknown),
            Err(_) => return Err(Refusal::StoreUnavailable),
        };
        let admin = Arc::clone(&gate.admin);
        let call = admin::Call { parts, body, caller, address: origin.client };
        let answering = self.proxy.control.spawn(async move { admin.answer(call).await });
        let answered = exchange.bounded(deadline, answering).await.map_err(|_| Refusal::StoreUnavailable)?;
        let response = answered.map_err(|panic| {
            tracing::error!(error = %panic, "a call of the key API failed");
            Refusal::Internal
        })??;
        account.status = response.status().as_u16();
        Ok(response.map(Body::local))
    }
}

async fn collect(body: Incoming, invitation: Option<Invitation>) -> Result<Bytes, Refusal> {
    if let Some(invitation) = invitation {
        invitation.send();
    }
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge { max: BODY_BYTES_MAX as u64 }),
        Err(error) if is_timeout(&*error) => Err(Refusal::BodyTimeout),
        Err(_) => Err(Refusal::BodyBroken),
    }
}
