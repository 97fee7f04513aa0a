//! What can go wrong between a client and the daemon.

use std::io;
use std::path::PathBuf;

use ipc::channel::ChannelError;
use ipc::protocol::{ErrorReply, IMPORTS_MAX, INTERFACES_BYTES_MAX, INTERFACES_MAX, ProtocolError};

/// An error of the client. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no default socket.
    #[error("no socket: XDG_RUNTIME_DIR is not set; name the daemon's socket")]
    NoSocket,
    /// Nobody answers at the socket.
    #[error("cannot connect to the daemon at {}: {source}; is sandboxd running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A daemon listens at the socket, but too many wait for it already.
    #[error("too many connections wait for the daemon at {} already; try again later", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody else answers at the socket: what a job reads and writes would be in his hands.
    #[error("the daemon at {} is run by user {uid}, who is neither you nor root; not sending it anything", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who answers.
        uid: u32,
    },
    /// The module cannot be opened.
    #[error("cannot open the module {}: {source}", path.display())]
    OpenModule {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection failed, or one side broke the protocol.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The daemon ended the connection before it answered.
    #[error("the daemon closed the connection; see its output for why it ended")]
    Closed,
    /// The daemon's answer belongs to another question.
    #[error("the daemon gave an answer that does not belong to the request")]
    Unexpected,
    /// An earlier request on this connection was abandoned before its answer came.
    #[error("this connection has an unanswered request; open another")]
    Abandoned,
    /// More descriptors than a request can carry.
    #[error("{0} directories; a job may have at most 64")]
    TooManyDirectories(usize),
    /// More sockets than a request can carry.
    #[error("{0} sockets; a job may have at most 16")]
    TooManySockets(usize),
    /// More imports than a request can carry.
    #[error("{0} imports; a job or session may have at most {IMPORTS_MAX}")]
    TooManyImports(usize),
    /// An interface cannot be sent.
    #[error("an interface of the job: {0}")]
    Interface(#[source] supervisor::Error),
    /// More interfaces than a request can carry.
    #[error("{0} interfaces; a job or session may have at most {INTERFACES_MAX}")]
    TooManyInterfaces(usize),
    /// Longer interfaces than a request can carry.
    #[error("interfaces of {0} bytes together; a job or session may have at most {INTERFACES_BYTES_MAX}")]
    InterfacesTooLong(usize),
    /// The daemon calls a function that there is not, or with values that it does not take.
    #[error("the daemon calls the job's functions in a way that was not offered: {what}")]
    ForeignCall {
        /// What is wrong.
        what: String,
    },
    /// The daemon could not do what it was asked for.
    #[error(transparent)]
    Daemon(ErrorReply),
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Error::Channel(error.into())
    }
}
