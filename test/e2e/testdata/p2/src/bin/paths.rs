// SPDX-License-Identifier: Apache-2.0

//! What each operation of WASI 0.2 that takes a path makes of each form of path, in a
//! directory that is made anew for it: by their results, after the path.

use std::fs;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

const PATHS: &[&str] = &[
    "",
    ".",
    "./",
    "..",
    "../",
    "/",
    "/file",
    "../out",
    "../d/file",
    "file",
    "file/",
    "file/.",
    "file/x",
    "sub",
    "sub/",
    "sub/.",
    "sub/..",
    "sub/../file",
    "sub/../..",
    "sub/../../out",
    "empty",
    "empty/",
    "none",
    "none/",
    "none/x",
    "to-file",
    "to-file/",
    "to-sub",
    "to-sub/",
    "to-sub/inner",
    "to-none",
    "to-none/",
    "to-out",
    "to-out/",
    "to-out/x",
    "absolute",
    "loop",
    "loop/x",
    "a\0b",
];

fn clear(at: &str) {
    for entry in fs::read_dir(at).expect("a directory") {
        let path = entry.expect("an entry").path();
        match fs::symlink_metadata(&path).expect("there").is_dir() {
            true => fs::remove_dir_all(&path).expect("removed"),
            false => fs::remove_file(&path).expect("removed"),
        }
    }
}

fn set_up(d: &Descriptor, at: &str) {
    clear(at);
    for dir in ["sub", "empty"] {
        d.create_directory_at(dir).expect("made");
    }
    fs::write(format!("{at}/file"), "hello").expect("written");
    fs::write(format!("{at}/sub/inner"), "inner").expect("written");
    for (link, to) in [
        ("to-file", "file"),
        ("to-sub", "sub"),
        ("to-none", "none"),
        ("to-out", "../out"),
        ("loop", "loop"),
        ("sub/up", "../file"),
    ] {
        d.symlink_at(to, link).expect("linked");
    }
}

type Act = fn(&Descriptor, &str) -> Result<String, ErrorCode>;

fn open(
    d: &Descriptor,
    how: PathFlags,
    path: &str,
    flags: OpenFlags,
    mode: DescriptorFlags,
) -> Result<String, ErrorCode> {
    let opened = d.open_at(how, path, flags, mode)?;
    let flags: Vec<_> = opened.get_flags()?.iter_names().map(|(name, _)| name).collect();
    Ok(format!("ok {} {}", kind(opened.get_type()?), flags.join(" ")))
}

fn kind(t: DescriptorType) -> String {
    format!("{t:?}").trim_start_matches("DescriptorType::").to_string()
}

fn unit(r: Result<(), ErrorCode>) -> Result<String, ErrorCode> {
    r.map(|()| "ok".into())
}

const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;
const ACTS: &[(&str, Act)] = &[
    ("stat", |d, p| d.stat_at(FOLLOW, p).map(|s| format!("ok {}", kind(s.type_)))),
    ("lstat", |d, p| d.stat_at(PathFlags::empty(), p).map(|s| format!("ok {}", kind(s.type_)))),
    ("open", |d, p| open(d, FOLLOW, p, OpenFlags::empty(), DescriptorFlags::READ)),
    ("open nothing", |d, p| open(d, FOLLOW, p, OpenFlags::empty(), DescriptorFlags::empty())),
    ("open write", |d, p| open(d, FOLLOW, p, OpenFlags::empty(), DescriptorFlags::WRITE)),
    ("open mutate", |d, p| {
        open(d, FOLLOW, p, OpenFlags::empty(), DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY)
    }),
    ("open nofollow", |d, p| open(d, PathFlags::empty(), p, OpenFlags::empty(), DescriptorFlags::READ)),
    ("open directory", |d, p| open(d, FOLLOW, p, OpenFlags::DIRECTORY, DescriptorFlags::READ)),
    ("open directory write", |d, p| open(d, FOLLOW, p, OpenFlags::DIRECTORY, DescriptorFlags::WRITE)),
    ("create", |d, p| open(d, FOLLOW, p, OpenFlags::CREATE, DescriptorFlags::READ | DescriptorFlags::WRITE)),
    ("create to read", |d, p| open(d, FOLLOW, p, OpenFlags::CREATE, DescriptorFlags::READ)),
    ("create exclusively", |d, p| {
        open(d, FOLLOW, p, OpenFlags::CREATE | OpenFlags::EXCLUSIVE, DescriptorFlags::WRITE)
    }),
    ("create directory", |d, p| {
        open(d, FOLLOW, p, OpenFlags::CREATE | OpenFlags::DIRECTORY, DescriptorFlags::READ)
    }),
    ("truncate", |d, p| open(d, FOLLOW, p, OpenFlags::TRUNCATE, DescriptorFlags::WRITE)),
    ("truncate to read", |d, p| open(d, FOLLOW, p, OpenFlags::TRUNCATE, DescriptorFlags::READ)),
    ("mkdir", |d, p| unit(d.create_directory_at(p))),
    ("rmdir", |d, p| unit(d.remove_directory_at(p))),
    ("unlink", |d, p| unit(d.unlink_file_at(p))),
    ("readlink", |d, p| d.readlink_at(p).map(|text| format!("ok {text}"))),
    ("symlink", |d, p| unit(d.symlink_at("text", p))),
    ("link from", |d, p| unit(d.link_at(PathFlags::empty(), p, d, "new"))),
    ("link from, followed", |d, p| unit(d.link_at(FOLLOW, p, d, "new"))),
    ("link to", |d, p| unit(d.link_at(PathFlags::empty(), "file", d, p))),
    ("rename from", |d, p| unit(d.rename_at(p, d, "new"))),
    ("rename to", |d, p| unit(d.rename_at("file", d, p))),
    ("rename directory to", |d, p| unit(d.rename_at("empty", d, p))),
    ("hash", |d, p| d.metadata_hash_at(FOLLOW, p).map(|_| "ok".into())),
];

fn main() {
    let name = std::env::args().nth(1).expect("a directory");
    let all = preopens::get_directories();
    let (d, _) = all.iter().find(|(_, n)| *n == name).expect("given");
    for path in PATHS {
        let mut found: Vec<(String, Vec<&str>)> = Vec::new();
        for (what, act) in ACTS {
            set_up(d, &name);
            let result = act(d, path).unwrap_or_else(|e| e.name().to_string());
            match found.iter_mut().find(|(r, _)| *r == result) {
                Some((_, acts)) => acts.push(what),
                None => found.push((result, vec![what])),
            }
        }
        println!("{path:?}");
        for (result, acts) in found {
            println!("\t{result}: {}", acts.join(", "));
        }
    }
}
