//! WASI error numbers, and what a Linux error number becomes.

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal from $linux:ident;)*) => {
        /// A WASI preview 1 error number (`errno` of the witx description). Success is not one of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub(super) enum Errno {
            $($(#[$doc])* $name = $number,)*
            /// A right that the guest has given up.
            NotCapable = 76,
        }

        impl From<nix::errno::Errno> for Errno {
            /// The WASI number of the same meaning; what WASI cannot say is an input/output error.
            fn from(linux: nix::errno::Errno) -> Self {
                match linux {
                    $(nix::errno::Errno::$linux => Self::$name,)*
                    _ => Self::Io,
                }
            }
        }

        #[cfg(test)]
        const NUMBERS: &[u16] = &[$($number),*];
    };
}

errnos! {
    TooBig = 1 from E2BIG;
    Access = 2 from EACCES;
    AddressInUse = 3 from EADDRINUSE;
    AddressNotAvailable = 4 from EADDRNOTAVAIL;
    AddressFamilyNotSupported = 5 from EAFNOSUPPORT;
    Again = 6 from EAGAIN;
    Already = 7 from EALREADY;
    BadDescriptor = 8 from EBADF;
    BadMessage = 9 from EBADMSG;
    Busy = 10 from EBUSY;
    Canceled = 11 from ECANCELED;
    NoChild = 12 from ECHILD;
    ConnectionAborted = 13 from ECONNABORTED;
    ConnectionRefused = 14 from ECONNREFUSED;
    ConnectionReset = 15 from ECONNRESET;
    Deadlock = 16 from EDEADLK;
    DestinationRequired = 17 from EDESTADDRREQ;
    Domain = 18 from EDOM;
    Quota = 19 from EDQUOT;
    Exists = 20 from EEXIST;
    Fault = 21 from EFAULT;
    FileTooBig = 22 from EFBIG;
    HostUnreachable = 23 from EHOSTUNREACH;
    IdentifierRemoved = 24 from EIDRM;
    IllegalSequence = 25 from EILSEQ;
    InProgress = 26 from EINPROGRESS;
    Interrupted = 27 from EINTR;
    Invalid = 28 from EINVAL;
    Io = 29 from EIO;
    IsConnected = 30 from EISCONN;
    IsDirectory = 31 from EISDIR;
    Loop = 32 from ELOOP;
    TooManyHandles = 33 from EMFILE;
    TooManyLinks = 34 from EMLINK;
    MessageSize = 35 from EMSGSIZE;
    Multihop = 36 from EMULTIHOP;
    NameTooLong = 37 from ENAMETOOLONG;
    NetworkDown = 38 from ENETDOWN;
    NetworkReset = 39 from ENETRESET;
    NetworkUnreachable = 40 from ENETUNREACH;
    TooManyFiles = 41 from ENFILE;
    NoBuffers = 42 from ENOBUFS;
    NoDevice = 43 from ENODEV;
    NoEntry = 44 from ENOENT;
    NotExecutable = 45 from ENOEXEC;
    NoLocks = 46 from ENOLCK;
    NoLink = 47 from ENOLINK;
    NoMemory = 48 from ENOMEM;
    NoMessage = 49 from ENOMSG;
    NoProtocolOption = 50 from ENOPROTOOPT;
    NoSpace = 51 from ENOSPC;
    NotImplemented = 52 from ENOSYS;
    NotConnected = 53 from ENOTCONN;
    NotDirectory = 54 from ENOTDIR;
    NotEmpty = 55 from ENOTEMPTY;
    NotRecoverable = 56 from ENOTRECOVERABLE;
    NotSocket = 57 from ENOTSOCK;
    NotSupported = 58 from EOPNOTSUPP;
    NotTty = 59 from ENOTTY;
    NoSuchDevice = 60 from ENXIO;
    Overflow = 61 from EOVERFLOW;
    OwnerDead = 62 from EOWNERDEAD;
    NotPermitted = 63 from EPERM;
    BrokenPipe = 64 from EPIPE;
    Protocol = 65 from EPROTO;
    ProtocolNotSupported = 66 from EPROTONOSUPPORT;
    ProtocolType = 67 from EPROTOTYPE;
    Range = 68 from ERANGE;
    ReadOnlyFilesystem = 69 from EROFS;
    NotSeekable = 70 from ESPIPE;
    NoProcess = 71 from ESRCH;
    Stale = 72 from ESTALE;
    TimedOut = 73 from ETIMEDOUT;
    TextBusy = 74 from ETXTBSY;
    CrossDevice = 75 from EXDEV;
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::Io, |code| nix::errno::Errno::from_raw(code).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_witx_description() {
        // 1 (`2big`) to 75 (`xdev`) without a gap; 76 is `notcapable`.
        assert_eq!(NUMBERS, (1..=75).collect::<Vec<u16>>());
        assert_eq!(Errno::from(nix::errno::Errno::ENOENT) as u16, 44);
        assert_eq!(Errno::from(nix::errno::Errno::EPERM) as u16, 63);
        assert_eq!(Errno::from(nix::errno::Errno::EUCLEAN), Errno::Io);
    }
}
