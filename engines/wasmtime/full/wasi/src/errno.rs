// SPDX-License-Identifier: Apache-2.0

//! The kernel's errors as preview 1 numbers them: each has its own.

use rustix::io::Errno as Kernel;

/// An error of preview 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    pub const AGAIN: Errno = Errno(6);
    pub const BADF: Errno = Errno(8);
    pub const FAULT: Errno = Errno(21);
    pub const INVAL: Errno = Errno(28);
    pub const IO: Errno = Errno(29);
    pub const ISDIR: Errno = Errno(31);
    pub const LOOP: Errno = Errno(32);
    pub const MFILE: Errno = Errno(33);
    pub const NAMETOOLONG: Errno = Errno(37);
    pub const NOENT: Errno = Errno(44);
    pub const NOTDIR: Errno = Errno(54);
    pub const NOTSUP: Errno = Errno(58);
    pub const OVERFLOW: Errno = Errno(61);
    pub const PERM: Errno = Errno(63);
    pub const NOTCAPABLE: Errno = Errno(76);
}

macro_rules! table {
    ($($name:ident $number:literal)*) => {
        /// Those that Linux has, too. What preview 1 has no number for is EIO.
        fn number(e: Kernel) -> u16 {
            // Two names for one number would not match twice.
            $(if e == Kernel::$name { return $number; })*
            Errno::IO.0
        }
    };
}

table! {
    TOOBIG 1 ACCESS 2 ADDRINUSE 3 ADDRNOTAVAIL 4 AFNOSUPPORT 5 AGAIN 6 ALREADY 7 BADF 8 BADMSG 9
    BUSY 10 CANCELED 11 CHILD 12 CONNABORTED 13 CONNREFUSED 14 CONNRESET 15 DEADLK 16 DESTADDRREQ 17
    DOM 18 DQUOT 19 EXIST 20 FAULT 21 FBIG 22 HOSTUNREACH 23 IDRM 24 ILSEQ 25 INPROGRESS 26
    INTR 27 INVAL 28 IO 29 ISCONN 30 ISDIR 31 LOOP 32 MFILE 33 MLINK 34 MSGSIZE 35 MULTIHOP 36
    NAMETOOLONG 37 NETDOWN 38 NETRESET 39 NETUNREACH 40 NFILE 41 NOBUFS 42 NODEV 43 NOENT 44
    NOEXEC 45 NOLCK 46 NOLINK 47 NOMEM 48 NOMSG 49 NOPROTOOPT 50 NOSPC 51 NOSYS 52 NOTCONN 53
    NOTDIR 54 NOTEMPTY 55 NOTRECOVERABLE 56 NOTSOCK 57 NOTSUP 58 OPNOTSUPP 58 NOTTY 59 NXIO 60
    OVERFLOW 61 OWNERDEAD 62 PERM 63 PIPE 64 PROTO 65 PROTONOSUPPORT 66 PROTOTYPE 67 RANGE 68
    ROFS 69 SPIPE 70 SRCH 71 STALE 72 TIMEDOUT 73 TXTBSY 74 XDEV 75
}

impl From<Kernel> for Errno {
    fn from(e: Kernel) -> Errno {
        Errno(number(e))
    }
}
