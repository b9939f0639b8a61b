//! One node as one store: whichever core a connection is on.

use super::node::{Home, Node, among_others, block_on};

#[test]
fn requests_of_one_connection_reach_all_cores() {
    let _shared = among_others();
    let home = Home::new("spread");
    let node = Node::start(&home, &["--cores", "4"]);
    let flushes = node.metric("ringcore_wal_flushes_total");
    block_on(async {
        let client = node.client().await;
        for index in 0..200 {
            client.put(format!("key-{index}"), "value").await.unwrap();
        }
        let connections = node.metric("ringcore_connections");
        assert_eq!(connections.iter().sum::<f64>(), 1.0, "one connection");
    });
    super::node::until("the counters of all cores have moved", || {
        let (keys, now) = (node.metric("ringcore_keys"), node.metric("ringcore_wal_flushes_total"));
        keys.len() == 4
            && keys.iter().sum::<f64>() == 200.0
            && keys.iter().all(|keys| *keys > 20.0)
            && now.iter().zip(&flushes).all(|(now, before)| now > before)
    });
    assert!(
        node.metric_sum("ringcore_cross_core_hops_total") > 100.0,
        "three of four keys are another core's"
    );
    node.stop();
}

#[test]
fn what_one_connection_wrote_another_reads_at_once() {
    let _shared = among_others();
    let home = Home::new("visible");
    let node = Node::start(&home, &["--cores", "4"]);
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(node.client().await);
        }
        // A client has its connection before the node has taken it.
        super::node::until("the connections are spread evenly", || {
            node.metric("ringcore_connections").iter().all(|here| *here == 2.0)
        });
        for round in 0..400usize {
            let (writer, reader) = (&clients[round % 8], &clients[(round * 5 + 3) % 8]);
            let (key, value) = (format!("key-{}", round % 50), format!("value-{round}"));
            let written = writer.put(key.clone(), value.clone()).await.unwrap();
            let read = reader.get(key.clone()).await.unwrap().expect("it was written");
            assert_eq!((read.value, read.version), (value.into(), written.version));
            if round % 3 == 0 {
                writer.delete(key.clone()).await.unwrap();
                assert_eq!(reader.get(key).await.unwrap(), None);
            }
        }
    });
    node.stop();
}
