// SPDX-License-Identifier: Apache-2.0

// Addresses of sockets, which WASI 0.2 and 0.3 have alike, each as types of its own: this is
// included where those have their names.

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

fn v4(a: [u8; 4], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: a.into() })
}

fn v6(ip: &str, port: u16) -> IpSocketAddress {
    let [a, b, c, d, e, f, g, h] = ip.parse::<Ipv6Addr>().expect("an address").segments();
    IpSocketAddress::Ipv6(Ipv6SocketAddress {
        port,
        flow_info: 0,
        address: (a, b, c, d, e, f, g, h),
        scope_id: 0,
    })
}

fn address(a: IpSocketAddress) -> SocketAddr {
    match a {
        IpSocketAddress::Ipv4(a) => {
            let (b, c, d, e) = a.address;
            (Ipv4Addr::new(b, c, d, e), a.port).into()
        }
        IpSocketAddress::Ipv6(a) => {
            let (b, c, d, e, f, g, h, i) = a.address;
            (Ipv6Addr::new(b, c, d, e, f, g, h, i), a.port).into()
        }
    }
}

/// Addresses that no socket of IPv4 is connected to, and with "." those that none is
/// bound to, either.
fn wrong() -> Vec<(&'static str, IpSocketAddress)> {
    vec![
        (".another family", v6("::1", 80)),
        (".an IPv4 address in IPv6's form", v6("::ffff:127.0.0.1", 80)),
        ("no address", v4([0; 4], 80)),
        ("no port", v4(LOOPBACK, 0)),
    ]
}
