// SPDX-License-Identifier: Apache-2.0

//! Directories that a guest was given, and how paths are resolved below them: by
//! the kernel, in one call, so that nothing can be swapped between a check and a
//! use. What changes a directory takes no path in one call; there the directory is
//! resolved so, and the last name alone, which is never followed, is what is
//! changed.

use crate::errno::Errno;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timestamps};
use rustix::io::Errno as Kernel;

/// How far the paths below a directory reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// As far as the process itself: its root is the guest's, and the kernel confines
    /// both.
    Process,
    /// The directory is the guest's root: absolute links begin there, `..` ends there.
    Root,
    /// Nothing outside the directory is reached.
    Beneath,
}

impl Scope {
    /// The scope of a directory that the guest was given.
    pub fn of(host: &[u8], guest: &[u8]) -> Scope {
        match (host, guest) {
            (b"/", _) => Scope::Process,
            (_, b"/") => Scope::Root,
            _ => Scope::Beneath,
        }
    }

    /// The scope of a directory that was opened below one. It does not know where a
    /// root that is not the process's was.
    pub fn below(self) -> Scope {
        match self {
            Scope::Process => Scope::Process,
            Scope::Root | Scope::Beneath => Scope::Beneath,
        }
    }

    fn flags(self) -> ResolveFlags {
        // Links that the kernel makes, those in /proc, lead to what no path leads to.
        ResolveFlags::NO_MAGICLINKS
            | match self {
                Scope::Root => ResolveFlags::IN_ROOT,
                Scope::Process => ResolveFlags::empty(),
                Scope::Beneath => ResolveFlags::BENEATH,
            }
    }
}

/// A directory that paths are relative to.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub dir: BorrowedFd<'a>,
    pub scope: Scope,
}

/// A directory's entry, whether it is there or not.
struct Name {
    parent: OwnedFd,
    /// With the slash that it ended with, if any: it is to be a directory. Whoever makes,
    /// removes or renames something does not follow a link for it, the kernel says.
    name: Vec<u8>,
}

impl Name {
    /// The name of what there is to be another link to. There the kernel follows one that
    /// has a slash behind it.
    fn existing_file(&self) -> Result<&[u8], Errno> {
        let Some(name) = self.name.strip_suffix(b"/") else { return Ok(&self.name) };
        let stat = fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if file_type(&stat) == FileType::Directory { Ok(name) } else { Err(Errno::NOTDIR) }
    }
}

pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl Place<'_> {
    pub fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        // Before Linux 6.4 a file was made; what the others are to a directory, nobody says.
        let file = OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC;
        if flags.contains(OFlags::DIRECTORY) && flags.intersects(file) {
            return Err(Errno::INVAL);
        }
        // EAGAIN: something was renamed meanwhile, and the kernel cannot tell whether
        // a `..` on the way led outside.
        for _ in 0..RACES {
            match fs::openat2(self.dir, path, flags | OFlags::CLOEXEC, mode, self.scope.flags()) {
                Err(Kernel::AGAIN) => {}
                // Not a matter of file systems: the path leads out.
                Err(Kernel::XDEV) => return Err(Errno::PERM),
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN)
    }

    /// What a path names, without opening it.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let no_follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        self.open(path, OFlags::PATH | no_follow, Mode::empty())
    }

    fn name(&self, path: &[u8]) -> Result<Name, Errno> {
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
        if end == 0 {
            // "" is nothing, "/" no entry of any directory.
            return Err(if path.is_empty() { Errno::NOENT } else { Errno::PERM });
        }
        let start = path[..end].iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let parent = if start == 0 { b"." } else { &path[..start] };
        if &path[start..end] == b".." {
            self.find(path, true)?; // or it leads out
        }
        Ok(Name {
            parent: self.open(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?,
            name: path[start..path.len().min(end + 1)].to_vec(),
        })
    }

    pub fn stat(&self, path: &[u8], follow: bool) -> Result<Stat, Errno> {
        Ok(fs::fstat(self.find(path, follow)?)?)
    }

    pub fn set_times(&self, path: &[u8], follow: bool, times: &Timestamps) -> Result<(), Errno> {
        let file = self.find(path, follow)?;
        Ok(fs::utimensat(&file, "", times, AtFlags::EMPTY_PATH)?)
    }

    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let link = self.find(path, false)?;
        match fs::readlinkat(&link, "", Vec::new()) {
            Ok(text) => Ok(text.into_bytes()),
            // The kernel says so of what is no link but the empty path.
            Err(Kernel::NOENT) => Err(Errno::INVAL),
            Err(e) => Err(e.into()),
        }
    }

    pub fn make_dir(&self, path: &[u8]) -> Result<(), Errno> {
        let n = self.name(path)?;
        Ok(fs::mkdirat(&n.parent, &*n.name, Mode::from_raw_mode(0o777))?)
    }

    pub fn remove_dir(&self, path: &[u8]) -> Result<(), Errno> {
        let n = self.name(path)?;
        Ok(fs::unlinkat(&n.parent, &*n.name, AtFlags::REMOVEDIR)?)
    }

    pub fn unlink(&self, path: &[u8]) -> Result<(), Errno> {
        let n = self.name(path)?;
        Ok(fs::unlinkat(&n.parent, &*n.name, AtFlags::empty())?)
    }

    pub fn symlink(&self, text: &[u8], path: &[u8]) -> Result<(), Errno> {
        // Nobody could follow it here, and whoever does so elsewhere is led astray.
        if self.scope == Scope::Beneath && text.starts_with(b"/") {
            return Err(Errno::PERM);
        }
        let n = self.name(path)?;
        Ok(fs::symlinkat(text, &n.parent, &*n.name)?)
    }

    pub fn link(&self, path: &[u8], to: Place<'_>, new_path: &[u8]) -> Result<(), Errno> {
        let (old, new) = (self.name(path)?, to.name(new_path)?);
        let name = old.existing_file()?;
        Ok(fs::linkat(&old.parent, name, &new.parent, &*new.name, AtFlags::empty())?)
    }

    pub fn rename(&self, path: &[u8], to: Place<'_>, new_path: &[u8]) -> Result<(), Errno> {
        let (old, new) = (self.name(path)?, to.name(new_path)?);
        Ok(fs::renameat_with(&old.parent, &*old.name, &new.parent, &*new.name, RenameFlags::empty())?)
    }

    fn is_root(&self) -> bool {
        match self.scope {
            Scope::Root => true,
            Scope::Process => is_process_root(self.dir),
            Scope::Beneath => false,
        }
    }

    /// Which of the standard streams a path names, by the links that every root has in
    /// /dev: they end at links that the kernel makes, and which are not followed.
    pub fn stream(&self, path: &[u8]) -> Option<u32> {
        if !self.is_root() && (self.scope == Scope::Beneath || !path.starts_with(b"/")) {
            return None;
        }
        let mut path = path.to_vec();
        for _ in 0..LINKS {
            let absolute: Vec<u8> = path
                .split(|&b| b == b'/')
                .filter(|p| !p.is_empty() && *p != b".")
                .collect::<Vec<_>>()
                .join(&b'/');
            for dir in [&b"proc/self/fd/"[..], b"dev/fd/"] {
                if let Some([digit @ b'0'..=b'2']) = absolute.strip_prefix(dir) {
                    return Some(u32::from(digit - b'0'));
                }
            }
            let text = self.read_link(&path).ok()?;
            path = match path.iter().rposition(|&b| b == b'/') {
                Some(i) if !text.starts_with(b"/") => [&path[..=i], &text].concat(),
                _ => text,
            };
        }
        None
    }
}

/// Says whether a directory is the process's root.
pub fn is_process_root(dir: impl AsFd) -> bool {
    match (fs::fstat(dir), fs::stat("/")) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// A directory that the guest is given. Where its entries may not be read, it can
/// still be passed through.
pub fn open_dir(path: &[u8]) -> Result<OwnedFd, Kernel> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Kernel::ACCESS) => fs::open(path, flags | OFlags::PATH, Mode::empty()),
        other => other,
    }
}

const RACES: usize = 100;
/// As many links as the kernel follows on one path.
const LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A directory for one test, with one beside it that nothing may reach.
    struct Dirs(PathBuf);

    impl Dirs {
        fn new(name: &str) -> Dirs {
            let top = std::env::temp_dir().join(format!("wasmshim-{name}-{}", std::process::id()));
            for dir in ["in/sub", "out"] {
                std::fs::create_dir_all(top.join(dir)).unwrap();
            }
            std::fs::write(top.join("in/file"), "inside").unwrap();
            std::fs::write(top.join("out/file"), "outside").unwrap();
            Dirs(top)
        }
        fn inside(&self) -> OwnedFd {
            open_dir(self.0.join("in").as_os_str().as_encoded_bytes()).unwrap()
        }
    }

    impl Drop for Dirs {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn at(dir: &OwnedFd, scope: Scope) -> Place<'_> {
        Place { dir: dir.as_fd(), scope }
    }

    /// Every way out that a path has, with and without slashes behind it, for every
    /// operation: none touches what is outside.
    #[test]
    fn nothing_outside_is_reached() {
        let dirs = Dirs::new("outside");
        let outside = dirs.0.join("out");
        symlink("../out", dirs.0.join("in/relative")).unwrap();
        symlink(&outside, dirs.0.join("in/absolute")).unwrap();
        symlink("../out/file", dirs.0.join("in/to-file")).unwrap();
        symlink("../out/new", dirs.0.join("in/dangling")).unwrap();
        symlink("../out/", dirs.0.join("in/slash")).unwrap();
        let dir = dirs.inside();
        for scope in [Scope::Root, Scope::Beneath] {
            let place = at(&dir, scope);
            for path in ["../out", "sub/../../out", "relative", "absolute", "slash"] {
                for tail in ["/file", "/new", "/sub/../file", "/file/", "/new/"] {
                    let path = format!("{path}{tail}");
                    let p = path.as_bytes();
                    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                    assert!(place.open(p, OFlags::RDONLY, Mode::empty()).is_err(), "open {path}");
                    assert!(place.open(p, write, Mode::RWXU).is_err(), "create {path}");
                    assert!(place.stat(p, true).is_err(), "stat {path}");
                    assert!(place.stat(p, false).is_err(), "lstat {path}");
                    assert!(place.make_dir(p).is_err(), "mkdir {path}");
                    assert!(place.remove_dir(p).is_err(), "rmdir {path}");
                    assert!(place.unlink(p).is_err(), "unlink {path}");
                    assert!(place.symlink(b"x", p).is_err(), "symlink {path}");
                    assert!(place.link(p, place, b"linked").is_err(), "link {path}");
                    assert!(place.link(b"file", place, p).is_err(), "link to {path}");
                    assert!(place.rename(p, place, b"renamed").is_err(), "rename {path}");
                    assert!(place.rename(b"file", place, p).is_err(), "rename to {path}");
                }
            }
            for path in ["..", "../", "../.", "../..", "/", "sub/../..", "relative", "slash", "absolute"] {
                let p = path.as_bytes();
                assert!(place.make_dir(p).is_err(), "mkdir {path}");
                assert!(place.remove_dir(p).is_err(), "rmdir {path}");
                assert!(place.symlink(b"x", p).is_err(), "symlink {path}");
                assert!(place.link(b"file", place, p).is_err(), "link to {path}");
                assert!(place.rename(b"sub", place, p).is_err(), "rename to {path}");
                if path.contains('.') || path == "/" {
                    assert!(place.unlink(p).is_err(), "unlink {path}");
                    assert!(place.link(p, place, b"linked").is_err(), "link {path}");
                    assert!(place.rename(p, place, b"renamed").is_err(), "rename {path}");
                }
            }
            for path in ["to-file", "dangling", "dangling/", "to-file/"] {
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                assert!(place.open(path.as_bytes(), write, Mode::RWXU).is_err(), "create {path}");
            }
            for path in ["relative/", "slash/", "to-file/", "absolute/", "dangling/"] {
                let p = path.as_bytes();
                assert!(place.link(p, place, b"linked").is_err(), "link {path}");
                assert!(place.link(b"file", place, p).is_err(), "link to {path}");
                assert!(place.symlink(b"x", p).is_err(), "symlink {path}");
                assert!(place.make_dir(p).is_err(), "mkdir {path}");
                assert!(place.remove_dir(p).is_err(), "rmdir {path}");
                assert!(place.unlink(p).is_err(), "unlink {path}");
                assert!(place.rename(p, place, b"renamed").is_err(), "rename {path}");
                assert!(place.rename(b"sub", place, p).is_err(), "rename to {path}");
            }
        }
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"outside");
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
        assert!(!dirs.0.join("in/linked").exists() && !dirs.0.join("in/renamed").exists());
    }

    #[test]
    fn links_in_a_root() {
        let dirs = Dirs::new("root");
        symlink("/sub", dirs.0.join("in/run")).unwrap();
        symlink("../../../file", dirs.0.join("in/sub/up")).unwrap();
        symlink("/proc/self/fd/1", dirs.0.join("in/stdout")).unwrap();
        symlink("/stdout", dirs.0.join("in/sub/log")).unwrap();
        symlink("loop", dirs.0.join("in/loop")).unwrap();
        let dir = dirs.inside();
        let root = at(&dir, Scope::Root);
        for (path, found) in [("run/up", true), ("/run/up", true), ("run/../file", true), ("../file", true)] {
            assert_eq!(root.stat(path.as_bytes(), true).is_ok(), found, "{path}");
        }
        assert_eq!(at(&dir, Scope::Beneath).stat(b"run/up", true).err(), Some(Errno::PERM));
        for (path, stream) in [
            ("stdout", Some(1)),
            ("sub/log", Some(1)),
            ("dev/fd/2", Some(2)),
            ("/proc/self/fd/0", Some(0)),
            ("proc/self/fd/3", None),
            ("file", None),
            ("loop", None),
            ("nothing", None),
        ] {
            assert_eq!(root.stream(path.as_bytes()), stream, "{path}");
        }
    }

    #[test]
    fn errors_are_the_kernels() {
        let dirs = Dirs::new("errors");
        let dir = dirs.inside();
        let root = at(&dir, Scope::Root);
        assert_eq!(root.remove_dir(b"file"), Err(Errno::NOTDIR));
        assert_eq!(root.unlink(b"file/"), Err(Errno::NOTDIR));
        assert_eq!(root.unlink(b"sub"), Err(Errno(31)));
        assert_eq!(root.make_dir(b"sub/"), Err(Errno(20)));
        assert_eq!(root.make_dir(b"new/"), Ok(()));
        assert_eq!(root.rename(b"new/", root, b"other/"), Ok(()));
        assert_eq!(root.rename(b"file", root, b"other2/"), Err(Errno::NOTDIR));
        assert_eq!(root.read_link(b"file"), Err(Errno::INVAL));
        assert_eq!(root.link(b"sub", root, b"hard"), Err(Errno::PERM));
        // What is there, with a slash behind it, and what is not.
        for path in [&b"file/"[..], b"sub/"] {
            assert_eq!(root.symlink(b"x", path), Err(Errno(20)));
            assert_eq!(root.link(b"file", root, path), Err(Errno(20)));
        }
        assert_eq!(root.symlink(b"x", b"none/"), Err(Errno::NOENT));
        assert_eq!(root.link(b"file", root, b"none/"), Err(Errno::NOENT));
        for flag in [OFlags::CREATE, OFlags::EXCL, OFlags::TRUNC] {
            let open = root.open(b"sub", OFlags::DIRECTORY | flag, Mode::empty());
            assert_eq!(open.err(), Some(Errno::INVAL));
        }
        // The directory itself, and what is outside.
        let beneath = at(&dir, Scope::Beneath);
        assert_eq!(beneath.make_dir(b"sub/.."), Err(Errno(20)));
        assert_eq!(beneath.make_dir(b".."), Err(Errno::PERM));
        assert_eq!(beneath.rename(b"file", beneath, b"sub/../.."), Err(Errno::PERM));
        assert_eq!(root.stat(b"", true).err(), Some(Errno::NOENT));
        assert_eq!(root.unlink(&[b'a'; 300]), Err(Errno::NAMETOOLONG));
        let proc = open_dir(b"/proc").unwrap();
        let procfs = Place { dir: proc.as_fd(), scope: Scope::Beneath };
        assert_eq!(procfs.open(b"self/exe", OFlags::RDONLY, Mode::empty()).err(), Some(Errno::LOOP));
        assert_eq!(
            root.rename(b"file", Place { dir: proc.as_fd(), scope: Scope::Root }, b"x"),
            Err(Errno(75))
        );
    }
}
