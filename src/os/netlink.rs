//! Whether the network may have come: an address or a default route is new, as the
//! kernel reports it by rtnetlink (`rtnetlink(7)`, `netlink(7)`).
//!
//! Does not depend on: clocks, what is done about it. Another system has a routing
//! socket (`route(4)`) in place of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

/// The groups `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and
/// `RTMGRP_IPV6_ROUTE` (linux/rtnetlink.h). Not those of links and neighbours, which report
/// much and of no address.
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// A message about an address is a tenth of this. What is cut off a longer one is the end of
/// its attributes.
const LONGEST: usize = 4096;
/// Most messages that are read at once. What is left is read next.
const MOST_AT_ONCE: usize = 64;

/// `struct nlmsghdr`, `struct ifaddrmsg`, `struct rtmsg`, `struct rtattr`.
const HEADER: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;

const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// From here on a scope reaches no other machine, or only those on the link.
const RT_SCOPE_LINK: u8 = 253;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`: of no use, no more or not yet.
const UNUSABLE: u32 = 0x08 | 0x20 | 0x40;
/// An address that was changed so long after it was made, in hundredths of a second, is not
/// new: a router's advertisement or a lease has prolonged it. Finding duplicates takes
/// one to three seconds, and is no change of this kind.
const PROLONGED: u32 = 10 * 100;

const RTN_UNICAST: u8 = 1;
/// A copy of a route for one destination.
const RTM_F_CLONED: u32 = 0x200;

/// What the kernel reports about addresses and routes.
#[derive(Debug)]
pub struct NetworkEvents {
    socket: OwnedFd,
}

impl NetworkEvents {
    /// Listens from now on. Fails where a sandbox forbids this kind of socket.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(NetworkEvents { socket })
    }

    /// Reads what has been reported. True if an address or a default route may have come.
    pub fn take(&self) -> io::Result<bool> {
        let mut news = false;
        let mut buffer = [0; LONGEST];
        for _ in 0..MOST_AT_ONCE {
            match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // The kernel's number is 0; another process is not believed.
                    let kernel = from.is_some_and(|from| from.pid() == 0);
                    news |= kernel && network_came(buffer.get(..length).unwrap_or(&buffer));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Reports were lost: one may have been of an address.
                Err(Errno::NOBUFS) => news = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(news)
    }
}

impl AsFd for NetworkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether messages of rtnetlink say that an address or a default route has come by which
/// other machines may be reached.
#[must_use]
pub fn network_came(messages: &[u8]) -> bool {
    let mut rest = messages;
    while let Some(length) = u32_at(rest, 0) {
        // A message that is too long was cut off; one that is too short is none.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let (Some(message), Some(kind)) = (rest.get(HEADER..length), u16_at(rest, 4)) else {
            return false;
        };
        let came = match kind {
            RTM_NEWADDR => address_came(message),
            RTM_NEWROUTE => default_route_came(message),
            NLMSG_OVERRUN => true,
            _ => false,
        };
        if came {
            return true;
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    false
}

/// `struct ifaddrmsg` and its attributes.
fn address_came(message: &[u8]) -> bool {
    let [family, _, flags, scope, ..] = *message else { return false };
    if !matches!(family, AF_INET | AF_INET6) || scope >= RT_SCOPE_LINK {
        return false;
    }
    let mut flags = u32::from(flags);
    let mut rest = message.get(ADDRESS..).unwrap_or_default();
    while let Some(length) = u16_at(rest, 0) {
        let length = usize::from(length);
        let (Some(value), Some(kind)) = (rest.get(ATTRIBUTE..length), u16_at(rest, 2)) else {
            break;
        };
        match kind {
            // All of the flags, of which the header has eight.
            IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            // `struct ifa_cacheinfo`: when it was made and when it was last changed.
            IFA_CACHEINFO => {
                let times = u32_at(value, 8).zip(u32_at(value, 12));
                if times.is_some_and(|(made, changed)| changed.wrapping_sub(made) > PROLONGED) {
                    return false;
                }
            }
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    flags & UNUSABLE == 0
}

/// `struct rtmsg`. Its attributes do not matter: whatever the table, a VPN's routes are in
/// one of their own.
fn default_route_came(message: &[u8]) -> bool {
    let Some(message) = message.get(..ROUTE) else { return false };
    let [family, destination, _, _, _, _, _, kind, ..] = *message else { return false };
    let cloned = u32_at(message, 8).is_some_and(|flags| flags & RTM_F_CLONED != 0);
    matches!(family, AF_INET | AF_INET6) && destination == 0 && kind == RTN_UNICAST && !cloned
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTM_DELADDR: u16 = 21;
    const RTM_DELROUTE: u16 = 25;
    const RTM_NEWNEIGH: u16 = 28;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(ATTRIBUTE + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn address(family: u8, scope: u8, flags: u32, made: u32, changed: u32) -> Vec<u8> {
        let [low, ..] = flags.to_le_bytes();
        let mut body = vec![family, 24, low, scope, 1, 0, 0, 0];
        body.extend(attribute(1, &[10, 0, 0, 1]));
        body.extend(attribute(3, b"wlan0\0"));
        body.extend(attribute(IFA_FLAGS, &flags.to_ne_bytes()));
        let times: Vec<u8> = [0, 0, made, changed].into_iter().flat_map(u32::to_ne_bytes).collect();
        body.extend(attribute(IFA_CACHEINFO, &times));
        body
    }

    fn route(family: u8, destination: u8, kind: u8, flags: u32) -> Vec<u8> {
        let mut body = vec![family, destination, 0, 0, 254, 3, 0, kind];
        body.extend(flags.to_ne_bytes());
        body.extend(attribute(5, &[10, 0, 0, 254]));
        body
    }

    #[test]
    fn an_address_that_reaches_other_machines_is_news() {
        let came = |body: &[u8]| network_came(&message(RTM_NEWADDR, body));
        for family in [AF_INET, AF_INET6] {
            assert!(came(&address(family, 0, 0x80, 500, 500)));
            // Site; found to be no duplicate, after a while; a count that went round.
            assert!(came(&address(family, 200, 0, 500, 500)));
            assert!(came(&address(family, 0, 0x100, 500, 700)));
            assert!(came(&address(family, 0, 0, u32::MAX, 100)));
            // Link, host, nowhere.
            for scope in 253..=255 {
                assert!(!came(&address(family, scope, 0x80, 500, 500)));
            }
            for unusable in [0x08, 0x20, 0x40, 0x40 | 0x80 | 0x100] {
                assert!(!came(&address(family, 0, unusable, 500, 500)), "{unusable:x}");
            }
            assert!(!came(&address(family, 0, 0, 500, 60_500)), "a lease that was prolonged");
        }
        assert!(!came(&address(7, 0, 0, 500, 500)), "a bridge's");
        // The flags of the header, where there are no others.
        assert!(came(&[AF_INET, 24, 0x80, 0, 1, 0, 0, 0]));
        assert!(!came(&[AF_INET6, 64, 0x40, 0, 1, 0, 0, 0]));
    }

    #[test]
    fn a_default_route_is_news_and_no_other() {
        let came = |body: &[u8]| network_came(&message(RTM_NEWROUTE, body));
        for family in [AF_INET, AF_INET6] {
            assert!(came(&route(family, 0, RTN_UNICAST, 0)));
            assert!(!came(&route(family, 24, RTN_UNICAST, 0)), "of a network");
            assert!(!came(&route(family, 0, RTN_UNICAST, RTM_F_CLONED)), "a copy");
            // Local, broadcast, multicast, blackhole, unreachable.
            for kind in [0, 2, 3, 5, 6, 7, 255] {
                assert!(!came(&route(family, 0, kind, 0)), "{kind}");
            }
        }
        assert!(!came(&route(5, 0, RTN_UNICAST, 0)));
    }

    #[test]
    fn what_goes_and_what_is_of_neighbours_is_no_news() {
        let (there, default) = (address(AF_INET, 0, 0, 1, 1), route(AF_INET, 0, RTN_UNICAST, 0));
        for (kind, body) in
            [(RTM_DELADDR, &there), (RTM_DELROUTE, &default), (RTM_NEWNEIGH, &there), (16, &there)]
        {
            assert!(!network_came(&message(kind, body)), "{kind}");
        }
        let quiet = message(RTM_DELADDR, &there);
        let news = message(RTM_NEWADDR, &there);
        assert!(network_came(&[&quiet[..], &quiet, &news, &quiet].concat()), "among others");
        assert!(network_came(&message(NLMSG_OVERRUN, &[])), "something was lost");
    }

    #[test]
    fn g10_messages_that_are_cut_or_lie_about_their_length_end_the_reading() {
        let news = message(RTM_NEWADDR, &address(AF_INET, 0, 0, 1, 1));
        for cut in 0..news.len() {
            // Any outcome will do.
            let _ = network_came(&news[..cut]);
        }
        assert!(!network_came(&news[..HEADER + 3]));
        assert!(!network_came(&[]));
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut lies = news.clone();
            lies[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(network_came(&lies), length == u32::MAX, "{length}");
        }
        for length in [0_u16, 1, 3, u16::MAX] {
            let mut lies = address(AF_INET, 0, 0x40, 1, 1);
            lies[2] = 0;
            lies[ADDRESS..ADDRESS + 2].copy_from_slice(&length.to_ne_bytes());
            // Without its flags it is as the header says.
            assert!(network_came(&message(RTM_NEWADDR, &lies)), "{length}");
        }
        let short = attribute(IFA_CACHEINFO, &[1, 2, 3]);
        let body = [&[AF_INET, 24, 0, 0, 1, 0, 0, 0][..], &short, &attribute(IFA_FLAGS, &[64])];
        assert!(network_came(&message(RTM_NEWADDR, &body.concat())));
    }

    proptest! {
        #[test]
        fn g10_no_bytes_are_read_beyond_their_end(bytes: Vec<u8>) {
            let _ = network_came(&bytes);
        }

        #[test]
        fn g10_nothing_hides_what_came_before(bytes: Vec<u8>, kind in 0..40_u16) {
            let news = message(RTM_NEWROUTE, &route(AF_INET6, 0, RTN_UNICAST, 0));
            prop_assert!(network_came(&[&news[..], &bytes].concat()));
            let quiet = message(RTM_DELADDR, &bytes);
            prop_assert_eq!(network_came(&[&quiet[..], &news].concat()), true);
            // Only these two kinds, and one about losses, are news.
            if ![NLMSG_OVERRUN, RTM_NEWADDR, RTM_NEWROUTE].contains(&kind) {
                prop_assert!(!network_came(&message(kind, &bytes)));
            }
        }
    }

    #[test]
    fn the_socket_never_blocks_and_is_not_inherited() {
        let events = NetworkEvents::new().unwrap();
        assert!(events.take().is_ok());
        assert!(rustix::io::fcntl_getfd(&events).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
