//! Gateways that lie, ramble or hang, on loopback addresses of their own: whatever they say, the answer comes in bounded
//! time, and is a refusal or a grant that the core can judge.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use skynet_core::port_mapping::MappingProtocol;

use super::*;

/// PCP and NAT-PMP take 750 ms each at most, one after the other where the first fails late; UPnP 2 s and 3 s. With room
/// for a busy machine.
const BOUND: Duration = Duration::from_secs(12);

type Datagrams = Arc<dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync>;
type Pages = Arc<dyn Fn(&str, &mut TcpStream) + Send + Sync>;
type Case = (&'static str, Datagrams, Option<&'static str>, Pages);

/// A gateway at 127.5.`number`.1 that lives as long as the test's process.
fn gateway(number: u8, datagrams: Datagrams, location: Option<&str>, pages: Pages) -> Gateway {
    let address = IpAddr::V4(Ipv4Addr::new(127, 5, number, 1));
    let socket = UdpSocket::bind((address, 5351)).unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 1_200];
        while let Ok((n, from)) = socket.recv_from(&mut request) {
            for answer in datagrams(&request[..n]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    let listener = TcpListener::bind((address, 0)).unwrap();
    let own_location = format!("http://{}/desc.xml", listener.local_addr().unwrap());
    let location = location.map(|l| if l == "own" { own_location } else { l.to_owned() });
    let ssdp = UdpSocket::bind((address, 1900)).unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 1_200];
        while let Ok((_, from)) = ssdp.recv_from(&mut request) {
            if let Some(location) = &location {
                let kind = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nST: {kind}\r\nUSN: u::{kind}\r\nLOCATION: {location}\r\n\r\n"
                );
                let _ = ssdp.send_to(answer.as_bytes(), from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let pages = Arc::clone(&pages);
            std::thread::spawn(move || {
                let mut request = [0; 4_096];
                if let Ok(n) = stream.read(&mut request) {
                    pages(&String::from_utf8_lossy(&request[..n]), &mut stream);
                }
            });
        }
    });
    Gateway { address, own: Ipv4Addr::LOCALHOST.into() }
}

fn silent() -> Datagrams {
    Arc::new(|_| Vec::new())
}

fn no_pages() -> Pages {
    Arc::new(|_, _| {})
}

fn map(gateway: Gateway) -> (Result<Grant, NoMapping>, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let request = Request { gateway, port: 41_820, lifetime: Duration::from_secs(7_200) };
        let granted = GatewayClient.map(request, None).await.map(|(grant, _)| grant);
        (granted, start.elapsed())
    })
}

/// A PCP answer to `request` as RFC 6887 §11.1 has it: port 5000 of 198.51.100.2 for an hour.
fn pcp_answer(request: &[u8]) -> Vec<u8> {
    let mut answer = vec![2, 0x81, 0, 0, 0, 0, 0x0e, 0x10, 0, 0, 0, 9];
    answer.resize(24, 0);
    answer.extend(&request[24..42]);
    answer.extend([0x13, 0x88]);
    answer.extend(Ipv4Addr::new(198, 51, 100, 2).to_ipv6_mapped().octets());
    answer
}

/// To PCP as `change` has it; deaf to NAT-PMP.
fn pcp(change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Datagrams {
    Arc::new(move |request| match request {
        [2, 1, ..] if request.len() == 60 => {
            let mut answer = pcp_answer(request);
            change(&mut answer);
            vec![answer]
        }
        _ => Vec::new(),
    })
}

fn body(stream: &mut TcpStream, text: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
}

#[test]
fn an_honest_answer_is_a_grant() {
    let (granted, took) = map(gateway(1, pcp(|_| {}), None, no_pages()));
    let expected = Grant {
        protocol: MappingProtocol::Pcp,
        external: "198.51.100.2:5000".parse().unwrap(),
        lifetime: Duration::from_secs(3_600),
    };
    assert_eq!(granted, Ok(expected));
    assert!(took < BOUND);
}

#[test]
fn whatever_a_gateway_says_the_answer_is_bounded_and_no_grant() {
    let bystander = TcpListener::bind("127.5.99.1:8080").unwrap();
    bystander.set_nonblocking(true).unwrap();
    let deep = "<a>".repeat(5_000);
    let elsewhere = "http://127.5.99.1:8080/desc.xml";
    let endless: Pages = Arc::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n<root>");
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    let hangs: Pages = Arc::new(|_, _| std::thread::sleep(Duration::from_secs(20)));
    let nested: Pages = Arc::new(move |_, stream| body(stream, &deep));
    let foreign: Pages = Arc::new(|_, stream| {
        let service = "<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
                       <SCPDURL>http://127.5.99.1:8080/s</SCPDURL><controlURL>http://127.5.99.1:8080/c</controlURL>";
        body(
            stream,
            &format!("<root><device><serviceList><service>{service}</service></serviceList></device></root>"),
        );
    });
    let garbage: Datagrams = Arc::new(|request| vec![request.iter().map(|b| !b).collect(), vec![0xff; 3]]);
    let echo: Datagrams = Arc::new(|request| vec![request.to_vec()]);
    let huge: Datagrams = Arc::new(|_| vec![vec![2; 9_000]]);
    let cases: Vec<Case> = vec![
        ("silence", silent(), None, no_pages()),
        ("garbage", garbage, None, no_pages()),
        ("an echo", echo, None, no_pages()),
        ("too long", huge, None, no_pages()),
        ("another nonce", pcp(|a| a[24] ^= 1), None, no_pages()),
        ("another protocol", pcp(|a| a[36] = 6), None, no_pages()),
        ("another port", pcp(|a| a[40] ^= 1), None, no_pages()),
        ("port 0", pcp(|a| a[42..44].fill(0)), None, no_pages()),
        ("a request", pcp(|a| a[1] = 1), None, no_pages()),
        ("cut short", pcp(|a| a.truncate(40)), None, no_pages()),
        ("a refusal", pcp(|a| a[3] = 2), None, no_pages()),
        ("an unknown refusal", pcp(|a| a[3] = 200), None, no_pages()),
        ("a description elsewhere", silent(), Some(elsewhere), no_pages()),
        ("no URL", silent(), Some("\u{1}://"), no_pages()),
        ("an endless description", silent(), Some("own"), endless),
        ("a description that hangs", silent(), Some("own"), hangs),
        ("5,000 levels of XML", silent(), Some("own"), nested),
        ("a control URL elsewhere", silent(), Some("own"), foreign),
    ];
    let threads: Vec<_> = (10..)
        .zip(cases)
        .map(|(number, (what, datagrams, location, pages))| {
            let gateway = gateway(number, datagrams, location, pages);
            (what, std::thread::spawn(move || map(gateway)))
        })
        .collect();
    for (what, thread) in threads {
        let (granted, took) = thread.join().unwrap();
        println!("{what}: {granted:?} after {took:.1?}");
        assert!(granted.is_err(), "{what}: {granted:?}");
        assert!(took < BOUND, "{what}: {took:?}");
    }
    assert!(bystander.accept().is_err(), "nobody was sent to another host");
}

#[test]
fn a_survey_says_what_is_spoken_and_maps_nothing() {
    let mapped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let note = Arc::clone(&mapped);
    let both: Datagrams = Arc::new(move |request| match request {
        [2, 1, _, _, 0, 0, 0, 0, ..] if request.len() == 60 => {
            let mut answer = pcp_answer(request);
            answer[4..8].fill(0);
            vec![answer]
        }
        [0, 0] => vec![vec![0, 0x80, 0, 0, 0, 0, 0, 9, 198, 51, 100, 2]],
        _ => {
            note.store(true, std::sync::atomic::Ordering::Release);
            Vec::new()
        }
    });
    let gateway = gateway(2, both, None, no_pages());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(survey(gateway));
    assert!(found.pcp.speaks && found.nat_pmp.speaks && !found.upnp_igd.speaks, "{found:?}");
    assert_eq!(found.external(), Some("198.51.100.2".parse().unwrap()));
    assert!(!mapped.load(std::sync::atomic::Ordering::Acquire), "nothing but questions");
    let silent = runtime.block_on(survey(self::gateway(3, silent(), None, no_pages())));
    assert!(!silent.pcp.speaks && !silent.nat_pmp.speaks && silent.external().is_none());
}
