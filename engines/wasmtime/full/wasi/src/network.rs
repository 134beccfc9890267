// SPDX-License-Identifier: Apache-2.0

//! What a guest may do in its container's network: as the operator says, and nothing
//! where nobody has said anything.

use ipnet::IpNet;
use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    None,
    /// The guest begins, others answer.
    Outbound,
    All,
}

/// What an address is about to be used for: the guest's own or, of the last four,
/// somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    TcpBind,
    TcpListen,
    UdpBind,
    TcpAccept,
    TcpConnect,
    UdpSend,
    UdpReceive,
}

/// The operator's word. A list that is not there allows everything, an empty one
/// nothing.
#[derive(Debug, Default)]
pub struct Policy {
    mode: Mode,
    connect_to: Option<Vec<IpNet>>,
    connect_ports: Option<Vec<RangeInclusive<u16>>>,
    connect_names: Option<Vec<String>>,
    accept_from: Option<Vec<IpNet>>,
    listen_ports: Option<Vec<RangeInclusive<u16>>>,
    seen: Mutex<Seen>,
}

/// What the guest has done, as far as it counts.
#[derive(Debug, Default)]
struct Seen {
    /// What names have led to.
    resolved: HashSet<IpAddr>,
    /// To whom it has sent datagrams: they may answer.
    sent_to: HashSet<SocketAddr>,
    /// It has a port for datagrams that it may be a server at.
    serves_udp: bool,
}

/// More than a guest talks to. Whoever asks for more begins anew.
const MOST_SEEN: usize = 16 << 10;

fn remember<T: Eq + Hash>(set: &mut HashSet<T>, item: T) {
    if set.len() >= MOST_SEEN && !set.contains(&item) {
        set.clear();
    }
    set.insert(item);
}

impl Policy {
    /// Sets one of the engine's options. The error is "found X, accepted: Y".
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "network" => {
                self.mode = match value {
                    "none" => Mode::None,
                    "outbound" => Mode::Outbound,
                    "all" => Mode::All,
                    _ => return Err(format!("found \"{value}\", accepted: none, outbound, all")),
                }
            }
            "connect-to" => self.connect_to = Some(list(value, net)?),
            "connect-ports" => self.connect_ports = Some(list(value, ports)?),
            "connect-names" => self.connect_names = Some(list(value, pattern)?),
            "accept-from" => self.accept_from = Some(list(value, net)?),
            "listen-ports" => self.listen_ports = Some(list(value, ports)?),
            _ => return Err("no option of the network".into()),
        }
        Ok(())
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Says whether a name, in ASCII, may be asked for, and by that connected to.
    pub fn permits_name(&self, name: &str) -> bool {
        let name = canonical(name);
        self.mode != Mode::None
            && self.connect_names.as_ref().is_none_or(|all| all.iter().any(|p| is_of_pattern(p, &name)))
    }

    /// Hears what a name that is permitted leads to.
    pub fn resolved(&self, addresses: &[IpAddr]) {
        // Where names do not count, nothing has to be remembered.
        if self.connect_names.is_none() {
            return;
        }
        let mut seen = self.seen.lock().expect("no panic is survived");
        for address in addresses {
            remember(&mut seen.resolved, address.to_canonical());
        }
    }

    pub fn permits(&self, address: SocketAddr, purpose: Use) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut seen = self.seen.lock().expect("no panic is survived");
        match purpose {
            // Port 0 is whichever is free: where the guest's own connections begin.
            Use::TcpBind => {
                self.mode != Mode::None && (address.port() == 0 || self.may_serve(address.port()))
            }
            Use::UdpBind if address.port() == 0 => self.mode != Mode::None,
            Use::UdpBind => {
                let may = self.may_serve(address.port());
                seen.serves_udp |= may;
                may
            }
            Use::TcpListen => self.may_serve(address.port()),
            Use::TcpAccept => self.may_hear(address.ip()),
            Use::TcpConnect => self.may_reach(address, &seen),
            Use::UdpSend => {
                let may = self.may_reach(address, &seen);
                if may && !self.may_hear_all() {
                    remember(&mut seen.sent_to, address);
                }
                may || self.may_answer(address.ip(), &seen)
            }
            // Of the guest's sockets only the sender's address is known here: an answer
            // may reach any of them, and a request any, once one has a port of the list.
            Use::UdpReceive => seen.sent_to.contains(&address) || self.may_answer(address.ip(), &seen),
        }
    }

    /// A socket that listens for a guest which cannot make one. The error is as of set.
    pub fn listen(&self, text: &str) -> Result<TcpListener, String> {
        let bad = |accepted: &str| format!("found \"{text}\", accepted: {accepted}");
        let address: SocketAddr =
            text.parse().map_err(|_| bad("addresses with ports, as in 0.0.0.0:8080 or [::]:8080"))?;
        if self.mode != Mode::All {
            return Err(bad("one only where the engine option network is all"));
        }
        if !self.permits(address, Use::TcpListen) {
            return Err(bad("the ports that the engine option listen-ports has"));
        }
        TcpListener::bind(address).map_err(|e| format!("cannot listen at {text}: {e}"))
    }

    fn may_serve(&self, port: u16) -> bool {
        self.mode == Mode::All && within(self.listen_ports.as_deref(), port)
    }

    fn may_hear(&self, peer: IpAddr) -> bool {
        self.mode == Mode::All && among(self.accept_from.as_deref(), peer)
    }

    fn may_hear_all(&self) -> bool {
        self.mode == Mode::All && self.accept_from.is_none() && self.listen_ports.is_none()
    }

    /// As a server of datagrams: it gets requests, and sends to whoever it may get one
    /// from.
    fn may_answer(&self, peer: IpAddr, seen: &Seen) -> bool {
        self.may_hear(peer) && (self.listen_ports.is_none() || seen.serves_udp)
    }

    fn may_reach(&self, address: SocketAddr, seen: &Seen) -> bool {
        if self.mode == Mode::None || !within(self.connect_ports.as_deref(), address.port()) {
            return false;
        }
        match (&self.connect_to, &self.connect_names) {
            (None, None) => true,
            (Some(nets), _) if among(Some(nets), address.ip()) => true,
            (_, Some(_)) => seen.resolved.contains(&address.ip()),
            _ => false,
        }
    }
}

fn within(ports: Option<&[RangeInclusive<u16>]>, port: u16) -> bool {
    ports.is_none_or(|all| all.iter().any(|r| r.contains(&port)))
}

fn among(nets: Option<&[IpNet]>, address: IpAddr) -> bool {
    nets.is_none_or(|all| all.iter().any(|n| n.contains(&address)))
}

/// As names are compared: in small letters, without the dot of the root.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_of_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        // Below the domain, at any depth, and not the domain itself.
        Some(domain) => name.len() > domain.len() && name.ends_with(domain),
        None => name == pattern,
    }
}

fn list<T>(value: &str, parse: fn(&str) -> Option<T>) -> Result<Vec<T>, String>
where
    T: Accepted,
{
    let entries = value.split(',').map(str::trim).filter(|_| !value.is_empty());
    entries.map(|e| parse(e).ok_or_else(|| format!("found \"{e}\", accepted: {}", T::ACCEPTED))).collect()
}

/// What an entry of a list is to be, for messages.
trait Accepted {
    const ACCEPTED: &str;
}

impl Accepted for IpNet {
    const ACCEPTED: &str = "addresses, as in 10.0.0.0/8, 192.0.2.1 or fd00::/8";
}

impl Accepted for RangeInclusive<u16> {
    const ACCEPTED: &str = "ports from 1 to 65535, as in 443 or 8000-8080";
}

impl Accepted for String {
    const ACCEPTED: &str = "names, as in db.example.com, or *.example.com for all below it";
}

/// An IPv4 address in IPv6's form is an IPv4 address here, as everywhere.
fn net(text: &str) -> Option<IpNet> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(|a| IpNet::from(a.to_canonical()))).ok()?;
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            let bits = v6.prefix_len().checked_sub(96)?;
            IpNet::new(v6.addr().to_canonical(), bits).ok()
        }
        net => Some(net),
    }
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten();
    let range = port(first)?..=port(last)?;
    (*range.start() > 0 && !range.is_empty()).then_some(range)
}

fn pattern(text: &str) -> Option<String> {
    let name = canonical(text);
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let is_label = |l: &str| {
        (1..64).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // An address would never match: names lead to them, they are none.
    (name.len() < 254 && labels.split('.').all(is_label) && labels.parse::<IpAddr>().is_err()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Use::*;

    fn policy(options: &[(&str, &str)]) -> Policy {
        let mut p = Policy::default();
        for (key, value) in options {
            p.set(key, value).unwrap();
        }
        p
    }

    fn check(p: &Policy, cases: &[(Use, &str, bool)]) {
        for (purpose, address, want) in cases {
            assert_eq!(
                p.permits(address.parse().unwrap(), *purpose),
                *want,
                "{purpose:?} {address} by {p:?}"
            );
        }
    }

    #[test]
    fn modes() {
        let all = [TcpBind, TcpListen, UdpBind, TcpAccept, TcpConnect, UdpSend, UdpReceive];
        for (mode, want) in [
            ("none", [false, false, false, false, false, false, false]),
            ("outbound", [false, false, false, false, true, true, true]),
            ("all", [true, true, true, true, true, true, true]),
        ] {
            let p = policy(&[("network", mode)]);
            for (purpose, want) in all.into_iter().zip(want) {
                check(&p, &[(purpose, "192.0.2.1:80", want)]);
            }
            check(&p, &[(TcpBind, "0.0.0.0:0", mode != "none"), (UdpBind, "[::]:0", mode != "none")]);
            check(&p, &[(TcpListen, "0.0.0.0:0", mode == "all")]);
            assert_eq!(p.permits_name("example.com"), mode != "none");
        }
        check(&Policy::default(), &[(TcpConnect, "127.0.0.1:80", false)]);
    }

    #[test]
    fn addresses_out() {
        let p = policy(&[("network", "outbound"), ("connect-to", "10.0.0.0/8,192.0.2.1, fd00::/8")]);
        check(
            &p,
            &[
                (TcpConnect, "10.255.0.1:1", true),
                (TcpConnect, "[::ffff:10.255.0.1]:1", true),
                (TcpConnect, "11.0.0.1:1", false),
                (TcpConnect, "192.0.2.1:1", true),
                (TcpConnect, "192.0.2.2:1", false),
                (TcpConnect, "[fd12::1]:1", true),
                (TcpConnect, "[fe80::1]:1", false),
                (UdpSend, "10.0.0.1:53", true),
                (UdpSend, "11.0.0.1:53", false),
            ],
        );
        check(&policy(&[("network", "all"), ("connect-to", "")]), &[(TcpConnect, "127.0.0.1:1", false)]);
        let p = policy(&[("network", "all"), ("connect-to", "::ffff:10.0.0.0/104")]);
        check(&p, &[(TcpConnect, "10.1.1.1:1", true), (TcpConnect, "11.1.1.1:1", false)]);
    }

    #[test]
    fn ports_out() {
        let p = policy(&[("network", "outbound"), ("connect-ports", "443,8000-8010")]);
        for (port, want) in
            [(443, true), (80, false), (7999, false), (8000, true), (8010, true), (8011, false)]
        {
            let address = format!("192.0.2.1:{port}");
            check(&p, &[(TcpConnect, &address, want), (UdpSend, &address, want)]);
        }
    }

    #[test]
    fn names_out() {
        let p = policy(&[("network", "outbound"), ("connect-names", "db.example.com,*.Svc.local.")]);
        for (name, want) in [
            ("db.example.com", true),
            ("DB.Example.com.", true),
            ("example.com", false),
            ("a.db.example.com", false),
            ("xdb.example.com", false),
            ("a.svc.local", true),
            ("a.b.svc.local", true),
            ("svc.local", false),
            (".svc.local", false),
            ("evilsvc.local", false),
        ] {
            assert_eq!(p.permits_name(name), want, "{name}");
        }
        // Only what one of the names led to.
        check(&p, &[(TcpConnect, "192.0.2.1:1", false)]);
        p.resolved(&["192.0.2.1".parse().unwrap()]);
        check(&p, &[(TcpConnect, "192.0.2.1:1", true), (TcpConnect, "192.0.2.2:1", false)]);
        // Beside addresses, and only at the ports.
        let both = [
            ("network", "all"),
            ("connect-names", "a"),
            ("connect-to", "10.0.0.0/8"),
            ("connect-ports", "1"),
        ];
        let p = policy(&both);
        p.resolved(&["::ffff:192.0.2.1".parse().unwrap()]);
        check(&p, &[(TcpConnect, "192.0.2.1:1", true), (TcpConnect, "10.0.0.1:1", true)]);
        check(&p, &[(TcpConnect, "192.0.2.1:2", false), (TcpConnect, "192.0.2.2:1", false)]);
        assert!(!policy(&[("network", "all"), ("connect-names", "")]).permits_name("a"));
    }

    #[test]
    fn into_the_guest() {
        let p =
            policy(&[("network", "all"), ("listen-ports", "80,8080-8081"), ("accept-from", "10.0.0.0/8")]);
        check(
            &p,
            &[
                (TcpBind, "0.0.0.0:80", true),
                (TcpBind, "0.0.0.0:81", false),
                (TcpListen, "0.0.0.0:8081", true),
                (TcpListen, "0.0.0.0:40000", false),
                (TcpAccept, "10.1.2.3:4444", true),
                (TcpAccept, "11.1.2.3:4444", false),
                (UdpBind, "0.0.0.0:53", false),
                (TcpConnect, "11.1.2.3:4444", true),
            ],
        );
    }

    #[test]
    fn datagrams_come_back() {
        let out = policy(&[("network", "outbound")]);
        check(&out, &[(UdpReceive, "192.0.2.1:53", false)]);
        check(&out, &[(UdpSend, "192.0.2.1:53", true), (UdpReceive, "192.0.2.1:53", true)]);
        check(&out, &[(UdpReceive, "192.0.2.1:54", false), (UdpReceive, "192.0.2.2:53", false)]);
        // A server answers whom it hears, though it may connect to nobody.
        let served =
            [("network", "all"), ("connect-to", ""), ("listen-ports", "53"), ("accept-from", "10.0.0.0/8")];
        let p = policy(&served);
        check(&p, &[(UdpReceive, "10.0.0.1:1", false), (UdpSend, "10.0.0.1:1", false)]);
        check(&p, &[(UdpBind, "0.0.0.0:53", true), (UdpReceive, "10.0.0.1:1", true)]);
        check(
            &p,
            &[
                (UdpSend, "10.0.0.1:1", true),
                (UdpSend, "11.0.0.1:1", false),
                (UdpReceive, "11.0.0.1:1", false),
            ],
        );
    }

    #[test]
    fn memory_is_bounded() {
        let p = policy(&[("network", "outbound"), ("connect-names", "a")]);
        for i in 0..3 * MOST_SEEN as u32 {
            p.resolved(&[IpAddr::from(i.to_be_bytes())]);
        }
        assert!(p.seen.lock().unwrap().resolved.len() <= MOST_SEEN);
    }

    #[test]
    fn wrong_entries() {
        let p = policy(&[("network", "all"), ("listen-ports", "1-9999")]);
        for (at, want) in [
            ("8080", "found \"8080\", accepted: addresses with ports"),
            ("localhost:8080", "found \"localhost:8080\", accepted: addresses with ports"),
            ("127.0.0.1:10000", "found \"127.0.0.1:10000\", accepted: the ports that"),
            ("192.0.2.1:80", "cannot listen at 192.0.2.1:80: "),
        ] {
            let got = p.listen(at).unwrap_err();
            assert!(got.starts_with(want), "{at}: {got}");
        }
        let taken = policy(&[("network", "all")]).listen("127.0.0.1:0").unwrap();
        let again = policy(&[("network", "all")]).listen(&taken.local_addr().unwrap().to_string());
        assert!(again.unwrap_err().contains("in use"));
        let out = policy(&[("network", "outbound")]).listen("127.0.0.1:0");
        assert!(out.unwrap_err().contains("where the engine option network is all"));
        for (key, value, want) in [
            ("network", "host", "found \"host\", accepted: none, outbound, all"),
            ("connect-to", "10.0.0.0/8,nowhere", "found \"nowhere\", accepted: addresses, as in 10.0.0.0/8"),
            ("connect-to", "10.0.0.0/33", "found \"10.0.0.0/33\", accepted: addresses"),
            ("connect-to", "10.0.0.1:80", "found \"10.0.0.1:80\", accepted: addresses"),
            ("connect-to", ",", "found \"\", accepted: addresses"),
            ("accept-from", "10.0.0", "found \"10.0.0\", accepted: addresses"),
            ("accept-from", "::ffff:10.0.0.0/8", "found \"::ffff:10.0.0.0/8\", accepted: addresses"),
            ("connect-ports", "http", "found \"http\", accepted: ports from 1 to 65535"),
            ("connect-ports", "0", "found \"0\", accepted: ports"),
            ("connect-ports", "+1", "found \"+1\", accepted: ports"),
            ("listen-ports", "65536", "found \"65536\", accepted: ports"),
            ("listen-ports", "9-1", "found \"9-1\", accepted: ports"),
            ("listen-ports", "1-", "found \"1-\", accepted: ports"),
            ("connect-names", "http://a", "found \"http://a\", accepted: names"),
            ("connect-names", "a..b", "found \"a..b\", accepted: names"),
            ("connect-names", "*", "found \"*\", accepted: names"),
            ("connect-names", "a.*.b", "found \"a.*.b\", accepted: names"),
            ("connect-names", "10.0.0.1", "found \"10.0.0.1\", accepted: names"),
        ] {
            let got = Policy::default().set(key, value).unwrap_err();
            assert!(got.starts_with(want), "{key} = {value}: {got}");
        }
    }
}
