// SPDX-License-Identifier: Apache-2.0

//! Names as the container's own files say: /etc/hosts, then the servers and search
//! domains of /etc/resolv.conf. Both are read for each name, as a C library does: they
//! may be changed, and what answers is the servers' cache.

use crate::network::{Mode, Policy};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;
use rustix::fs::{FileType, Mode as FileMode, OFlags, fstat, open};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Denied,
    /// What was asked for is no name.
    Invalid,
    /// There is no such name, or it has no address.
    Unresolvable,
    /// No server has answered, or none could.
    Temporary,
    Permanent,
}

/// Where the files are.
#[derive(Clone, Copy)]
pub struct Files {
    pub hosts: &'static str,
    pub resolv_conf: &'static str,
}

pub const FILES: Files = Files { hosts: "/etc/hosts", resolv_conf: "/etc/resolv.conf" };

/// However many servers, attempts and search domains there are, a name has an end.
const LONGEST: Duration = Duration::from_secs(30);

/// Larger ones are cut off: the guest's memory is not for this.
const LARGEST_FILE: u64 = 1 << 20;

/// Finds the addresses of a name that the policy permits, at least one, best first.
/// Needs tokio's timers and sockets.
pub async fn look_up(policy: &Policy, files: Files, name: &str) -> Result<Vec<IpAddr>, Failure> {
    if policy.mode() == Mode::None {
        return Err(Failure::Permanent);
    }
    if let Some(address) = literal(name) {
        return Ok(vec![address]);
    }
    let name = Name::from_str_relaxed(name).map_err(|_| Failure::Invalid)?;
    if name.num_labels() == 0 {
        return Err(Failure::Invalid);
    }
    let mut found = match timeout(LONGEST, find(policy, files, name)).await {
        Ok(found) => found?,
        Err(_) => return Err(Failure::Temporary),
    };
    for address in &mut found {
        *address = address.to_canonical();
    }
    policy.resolved(&found);
    // Those that there is no route to come last: many guests try the first alone.
    found.sort_by_key(|a| !has_route(*a));
    Ok(found)
}

fn literal(name: &str) -> Option<IpAddr> {
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    inner.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // It sends nothing; the kernel looks for the route.
    UdpSocket::bind((any, 0)).and_then(|s| s.connect(SocketAddr::new(address, 9))).is_ok()
}

async fn find(policy: &Policy, files: Files, name: Name) -> Result<Vec<IpAddr>, Failure> {
    let text = name.to_ascii();
    let may = policy.permits_name(&text);
    if may {
        let found = in_hosts(&read(files.hosts), &text);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if is_localhost(&text) {
        let loopback = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return if may { Ok(loopback) } else { Err(Failure::Denied) };
    }
    let (resolver, search, ndots) = resolver(&read(files.resolv_conf))?;
    // The search is ours: each name that is asked for has to be permitted.
    let mut last = Failure::Denied;
    for name in candidates(name, &search, ndots) {
        if !policy.permits_name(&name.to_ascii()) {
            continue;
        }
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let found: Vec<_> = found.iter().collect();
                if !found.is_empty() {
                    return Ok(found);
                }
                last = Failure::Unresolvable;
            }
            Err(e) => match failure(&e) {
                // With the other names it would be no better.
                Failure::Temporary if matches!(e, NetError::Timeout) => return Err(Failure::Temporary),
                // Another server may know what this one could not say.
                _ if last == Failure::Temporary => {}
                other => last = other,
            },
        }
    }
    Err(last)
}

fn failure(e: &NetError) -> Failure {
    match e {
        NetError::Dns(DnsError::NoRecordsFound(_)) => Failure::Unresolvable,
        NetError::Proto(_) => Failure::Permanent,
        _ => Failure::Temporary,
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Absolute names, in the order in which they are tried.
fn candidates(name: Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut itself = name.clone();
    itself.set_fqdn(true);
    if name.is_fqdn() {
        return vec![itself];
    }
    let mut all: Vec<Name> =
        search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    for n in &mut all {
        n.set_fqdn(true);
    }
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    all.insert(if dots >= ndots { 0 } else { all.len() }, itself);
    all
}

fn resolver(conf: &[u8]) -> Result<(TokioResolver, Vec<Name>, usize), Failure> {
    // Without a server it is the one at hand, as with a C library.
    let (config, mut options) = parse_resolv_conf(conf)
        .or_else(|_| parse_resolv_conf([conf, b"\nnameserver 127.0.0.1\n"].concat()))
        .map_err(|_| Failure::Permanent)?;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = 0;
    let ndots = options.ndots;
    let servers = config.name_servers().to_vec();
    let mut search = config.search().to_vec();
    if search.is_empty() {
        search.extend(config.domain().cloned());
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = builder.with_options(options).build().map_err(|_| Failure::Permanent)?;
    Ok((resolver, search, ndots))
}

/// What a file has in it; of anything but a file, nothing. Waits for nobody.
fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if let Ok(fd) = open(path, flags, FileMode::empty())
        && fstat(&fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
    {
        let _ = std::fs::File::from(fd).take(LARGEST_FILE).read_to_end(&mut bytes);
    }
    bytes
}

fn in_hosts(hosts: &[u8], name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(hosts).lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|w| w.parse().ok()) else { continue };
        if words.any(|w| w.trim_end_matches('.').eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::id;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// Files with these texts.
    fn files(hosts: &[u8], resolv_conf: &[u8]) -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir =
            std::env::temp_dir().join(format!("names-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            &*Box::leak(path.into_os_string().into_string().unwrap().into_boxed_str())
        };
        Files { hosts: file("hosts", hosts), resolv_conf: file("resolv.conf", resolv_conf) }
    }

    fn policy(options: &[(&str, &str)]) -> Policy {
        let mut p = Policy::default();
        for (key, value) in options {
            p.set(key, value).unwrap();
        }
        p
    }

    fn ask(policy: &Policy, files: Files, name: &str) -> Result<String, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(look_up(policy, files, name))?;
        Ok(found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn without_a_server() {
        let hosts = b"127.0.0.7 a b.c # d\n\xff\xfe\n::1 a\n127.0.0.7 a\nnowhere e\n127.0.0.8 F.\n";
        let files = files(hosts, b"nameserver 127.0.0.254\noptions timeout:1 attempts:1\n");
        let p = policy(&[("network", "outbound")]);
        for (name, want) in [
            ("a", Ok("127.0.0.7 ::1")),
            ("A.", Ok("127.0.0.7 ::1")),
            ("b.C", Ok("127.0.0.7")),
            ("f", Ok("127.0.0.8")),
            ("localhost", Ok("127.0.0.1 ::1")),
            ("x.LOCALHOST.", Ok("127.0.0.1 ::1")),
            ("127.0.0.9", Ok("127.0.0.9")),
            ("[::1]", Ok("::1")),
            ("::ffff:127.0.0.9", Ok("127.0.0.9")),
            ("", Err(Failure::Invalid)),
            (".", Err(Failure::Invalid)),
            ("a..b", Err(Failure::Invalid)),
        ] {
            let mut got = ask(&p, files, name).map(|g| g.split(' ').map(String::from).collect::<Vec<_>>());
            if let Ok(all) = &mut got {
                all.sort();
            }
            assert_eq!(got.map(|g| g.join(" ")), want.map(String::from), "{name}");
        }
        assert_eq!(ask(&policy(&[]), files, "a"), Err(Failure::Permanent));
        let p = policy(&[("network", "all"), ("connect-names", "b.c")]);
        assert_eq!(ask(&p, files, "a"), Err(Failure::Denied));
        assert_eq!(ask(&p, files, "localhost"), Err(Failure::Denied));
        assert_eq!(ask(&p, files, "b.c"), Ok("127.0.0.7".into()));
    }

    #[test]
    fn a_name_has_an_end() {
        // Nobody has this address.
        let conf = b"nameserver 192.0.2.1\nsearch a b c\noptions timeout:1 attempts:1 ndots:5\n";
        let p = policy(&[("network", "outbound")]);
        let begun = Instant::now();
        assert_eq!(ask(&p, files(b"", conf), "x.y"), Err(Failure::Temporary));
        assert!(begun.elapsed() < LONGEST);
    }

    #[test]
    fn order_of_search() {
        let search = [Name::from_ascii("ns.svc").unwrap(), Name::from_ascii("svc.").unwrap()];
        let of = |name: &str, ndots| {
            let all = candidates(Name::from_str_relaxed(name).unwrap(), &search, ndots);
            all.iter().map(Name::to_ascii).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("db", 1), "db.ns.svc. db.svc. db.");
        assert_eq!(of("a.b", 1), "a.b. a.b.ns.svc. a.b.svc.");
        assert_eq!(of("a.b", 5), "a.b.ns.svc. a.b.svc. a.b.");
        assert_eq!(of("a.b.", 5), "a.b.");
    }

    #[test]
    fn files_that_are_none() {
        assert!(read("/dev/zero").is_empty());
        assert!(read("/").is_empty());
        assert!(read("/nowhere").is_empty());
        for conf in [&b""[..], b"search \xff\nnameserver\noptions ndots:x\n", b"nameserver nowhere\n"] {
            assert!(resolver(conf).is_ok_and(|(_, _, ndots)| ndots == 1), "{conf:?}");
        }
    }
}
