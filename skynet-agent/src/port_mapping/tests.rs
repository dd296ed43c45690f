use std::sync::{Arc, Mutex};

use skynet_core::port_mapping::MappingProtocol;

use super::*;

/// A gateway that grants everything, and one that never answers.
#[derive(Clone, Default)]
struct Fake {
    log: Arc<Mutex<Vec<String>>>,
    hangs: bool,
}

impl Fake {
    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

impl MappingClient for Fake {
    type Lease = &'static str;

    async fn map(&self, _: Request, lease: Option<&'static str>) -> Result<(Grant, &'static str), NoMapping> {
        self.note(format!("map {lease:?}"));
        let external = "198.51.100.2:41820".parse().unwrap();
        let grant = Grant { protocol: MappingProtocol::Pcp, external, lifetime: Duration::from_secs(600) };
        Ok((grant, if lease.is_some() { "renewed" } else { "new" }))
    }

    async fn release(&self, lease: &'static str) {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.note(format!("release {lease}"));
    }
}

fn ask(ask: u64, renews: Option<u64>) -> MappingAction {
    let gateway = Gateway { address: "10.1.0.1".parse().unwrap(), own: "10.1.0.10".parse().unwrap() };
    MappingAction::Ask { ask, gateway, port: 41_820, lifetime: Duration::from_secs(600), renews }
}

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(f)
}

#[test]
fn a_renewed_mapping_is_given_back_once_and_by_what_was_granted_last() {
    let fake = Fake::default();
    let log = Arc::clone(&fake.log);
    run(async move {
        let mut mappings = Mappings::new(fake);
        for (number, renews) in [(1, None), (2, Some(1))] {
            mappings.act(ask(number, renews));
            let answer = mappings.next().await;
            let (answered, granted) = mappings.keep(answer);
            assert!(answered == number && granted.is_ok());
        }
        mappings.act(MappingAction::Release { lease: 1 });
        mappings.finish().await;
    });
    assert_eq!(*log.lock().unwrap(), ["map None", "map Some(\"new\")", "release renewed"]);
}

#[test]
fn a_stop_waits_a_second_for_a_gateway_that_hangs_and_no_longer() {
    run(async {
        let start = tokio::time::Instant::now();
        let mut mappings = Mappings::new(Fake { hangs: true, ..Fake::default() });
        mappings.act(ask(1, None));
        let answer = mappings.next().await;
        assert!(mappings.keep(answer).1.is_ok());
        mappings.finish().await;
        assert_eq!(start.elapsed(), RELEASE_WITHIN);
    });
}
