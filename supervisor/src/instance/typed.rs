//! A call of a typed function: checked against its declaration, served, and answered.

use interface::{Arena, Call, LoweredFunction, Refusal};
use ipc::report::Violation;
use ipc::ring::Submission;
use ipc::typed::{REFUSED, deliver};

use super::provided::failure;
use crate::hostcall::SharedRegion;
use crate::service::{CallContext, TypedFunction};

impl Arena for SharedRegion<'_> {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        self.skip(offset).prefix(length).copy_out()
    }
}

/// What a completion says of a call that returns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Returned {
    pub(crate) value: u64,
    pub(crate) written: u64,
}

/// A call whose submission is sound.
#[derive(Debug)]
pub(crate) struct TypedCall<'p, 'r> {
    function: &'p LoweredFunction,
    serve: &'p TypedFunction,
    context: &'p CallContext,
    arena: SharedRegion<'r>,
    /// Or why the guest's call traps.
    call: Result<Call, String>,
}

impl<'p, 'r> TypedCall<'p, 'r> {
    /// Checks a submission (a private copy of a slot), and copies what it refers to.
    pub(super) fn check(
        serve: &'p TypedFunction,
        context: &'p CallContext,
        submission: &Submission,
        arena: SharedRegion<'r>,
    ) -> Result<Self, Violation> {
        let broken = |rule: String| Violation::Ring { rule };
        let function = serve.lowered().ok_or_else(|| broken("a function that is not there".to_owned()))?;
        let call = match submission.flags {
            0 => function.decode(&submission.args, &arena, context.handles()),
            REFUSED => Err(function.decode_refusal(&submission.args)),
            flags => return Err(broken(format!("{}: call with unknown flags {flags:#x}", function.name()))),
        };
        let call = match call {
            Ok(call) => Ok(call),
            Err(Refusal::Mistake(message)) => Err(message),
            Err(Refusal::Broken(rule)) => return Err(broken(rule)),
        };
        Ok(Self { function, serve, context, arena, call })
    }

    /// Calls the function; a failure is a message for the guest's trap.
    pub(super) async fn serve(self) -> Result<Returned, String> {
        let Self { function, serve, context, arena, call } = self;
        let mut call = call?;
        let arguments = std::mem::take(&mut call.arguments);
        let failed = |error| failure(function.name(), error);
        let context = context.for_call();
        // Also where this future is dropped half-way: the session of a call that was cancelled may go on.
        let mut giving = Giving { context: &context, has_arrived: false };
        let reply = serve.call(context.clone(), arguments).await.map_err(failed)?;
        let encoded = function.encode(&call, reply, context.handles()).map_err(|why| failed(why.into()))?;
        giving.has_arrived = encoded.deliver & deliver::BYTES != 0;
        for (offset, bytes) in &encoded.writes {
            arena.write(*offset, bytes);
        }
        Ok(Returned { value: encoded.value, written: encoded.deliver })
    }
}

/// Takes back the handles of a call whose results do not arrive.
struct Giving<'c> {
    context: &'c CallContext,
    has_arrived: bool,
}

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        if !self.has_arrived {
            self.context.take_back();
        }
    }
}
