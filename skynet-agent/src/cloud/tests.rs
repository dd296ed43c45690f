//! Against real sockets on loopback; the documented services are imitated to the letter in the end-to-end tests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::*;

/// What a service says to a request: everything, status line included.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

fn reply(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Answers until the test's process ends; `then` happens after each answer.
fn service(answer: Answer, then: fn(&mut std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = [0; 2_048];
                let Ok(n) = stream.read(&mut request) else { return };
                let text = String::from_utf8_lossy(&request[..n]).into_owned();
                let _ = stream.write_all(&answer(&text));
                then(&mut stream);
            });
        }
    });
    address
}

fn ask(service: SocketAddr) -> (Option<PublicAddress>, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let found = public_address(service).await;
        (found, start.elapsed())
    })
}

fn says(cloud: Cloud, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) {
    let (found, _) = ask(service(Arc::new(answer), |_| {}));
    assert_eq!(found, Some(PublicAddress { cloud, ip: "198.51.100.7".parse().unwrap() }));
}

#[test]
fn each_cloud_is_asked_in_its_own_words() {
    says(Cloud::Ec2, |request| {
        let lower = request.to_lowercase();
        if request.starts_with("PUT /latest/api/token ")
            && lower.contains("x-aws-ec2-metadata-token-ttl-seconds: ")
        {
            reply(200, "", "AQAAtoken==")
        } else if request.starts_with("GET /latest/meta-data/public-ipv4 ")
            && lower.contains("x-aws-ec2-metadata-token: aqaatoken==")
        {
            reply(200, "", "198.51.100.7")
        } else {
            reply(401, "", "")
        }
    });
    says(Cloud::Gce, |request| {
        let path = "GET /computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip ";
        match request.starts_with(path) && request.to_lowercase().contains("metadata-flavor: google") {
            true => reply(200, "Metadata-Flavor: Google\r\n", "198.51.100.7"),
            false => reply(404, "Metadata-Flavor: Google\r\n", ""),
        }
    });
    says(Cloud::Azure, |request| match request {
        r if !r.to_lowercase().contains("\r\nmetadata: true") => reply(400, "", ""),
        r if r.contains("/publicIpAddress?api-version=") => reply(200, "", "198.51.100.7"),
        _ => reply(404, "", ""),
    });
    says(Cloud::Azure, |request| match request {
        r if !r.to_lowercase().contains("\r\nmetadata: true") => reply(400, "", ""),
        r if r.contains("/publicIpAddress?api-version=") => reply(200, "", ""),
        r if r.contains("/metadata/loadbalancer?api-version=") => reply(
            200,
            "Content-Type: application/json\r\n",
            r#"{"loadbalancer":{"publicIpAddresses":[{"frontendIpAddress":"198.51.100.7","privateIpAddress":"10.1.0.4"}],"inboundRules":[]}}"#,
        ),
        _ => reply(404, "", ""),
    });
    says(Cloud::OpenStack, |request| match request {
        r if r.starts_with("GET /openstack ") => reply(200, "", "2012-08-10\n2018-08-27\nlatest"),
        r if r.starts_with("GET /latest/meta-data/public-ipv4 ") => reply(200, "", "198.51.100.7\n"),
        _ => reply(404, "", ""),
    });
}

/// Never longer than two requests, with room for a busy machine.
const BOUND: Duration = Duration::from_millis(3 * 400);

#[test]
fn whoever_answers_else_is_left_in_bounded_time() {
    let endless: fn(&mut std::net::TcpStream) = |stream| while stream.write_all(&[b'9'; 4_096]).is_ok() {};
    let silent: fn(&mut std::net::TcpStream) = |_| std::thread::sleep(Duration::from_secs(5));
    let closes: fn(&mut std::net::TcpStream) = |_| {};
    let all = |bytes: Vec<u8>| -> Answer { Arc::new(move |_| bytes.clone()) };
    for (what, answer, then) in [
        ("an endless body", all(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), endless),
        ("an endless head", all(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), endless),
        ("nothing", all(Vec::new()), silent),
        ("half a body", all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n198.51".to_vec()), silent),
        (
            "half a body and the end",
            all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n198.51".to_vec()),
            closes,
        ),
        ("a redirect", all(reply(302, "Location: http://127.0.0.1:1/\r\n", "")), closes),
        ("a page", all(reply(200, "", "<html>Welcome to our network</html>")), closes),
        ("not text", all([reply(200, "", "12"), vec![0xff; 2]].concat()), closes),
        ("no HTTP", all(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), closes),
        ("an error", all(reply(500, "", "198.51.100.7")), closes),
        ("the end", all(Vec::new()), closes),
    ] {
        let (found, took) = ask(service(answer, then));
        println!("{what}: {took:?}");
        assert_eq!(found, None, "{what}");
        assert!(took < BOUND, "{what}: {took:?}");
    }
    // A port that is closed.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(ask(closed).0, None);
}

#[test]
fn an_address_is_one_and_nothing_else() {
    assert!(matches!(address(""), Err(Silence::None)));
    assert!(address(" 198.51.100.7\n").is_ok());
    for garbage in ["198.51.100.7 198.51.100.8", "198.51.100.256", "null", "0x7f000001", "\u{0}"] {
        assert!(matches!(address(garbage), Err(Silence::Garbage)), "{garbage}");
    }
    for text in ["", "[]", "{}", r#"{"loadbalancer":{"publicIpAddresses":[]}}"#, r#"{"loadbalancer":7}"#, "{"]
    {
        assert!(frontend(text).is_err(), "{text}");
    }
}
