//! Zygotes from the supervisor's side: starting them, asking them for children, hearing of deaths.
//!
//! * [`image`]: the zygote's binary, carried inside this one.
//! * [`channel`]: packets on the control socket.
//! * [`root`]: a root zygote; starts it and has it fork module zygotes.
//! * [`listener`]: where instances ask for descriptors of files.
//! * [`module`]: a module zygote; has it fork instances and hears of their ends.

pub(crate) mod channel;
pub(crate) mod image;
pub(crate) mod listener;
pub(crate) mod module;
pub(crate) mod root;
