"""Talks to a running node with clients generated from the seed document's text, by another gRPC implementation.

Usage: interop.py CLIENT_ADDRESS PEER_ADDRESS DIRECTORY_OF_GENERATED_CODE
Ends with exit code 0 and the number of checks, or with the first check that fails.
"""

import sys
import threading

import grpc

client_address, peer_address, generated = sys.argv[1:4]
sys.path.insert(0, generated)
import seed_pb2 as pb  # noqa: E402
import seed_pb2_grpc as rpc  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # noqa: E402

checks = 0


def check(what, held):
    global checks
    checks += 1
    if not held:
        sys.exit(f"interop: {what}: does not hold")


def refused(what, code, call):
    try:
        call()
    except grpc.RpcError as error:
        check(f"{what} answers {code}, not {error.code()} ({error.details()})", error.code() == code)
        return error
    check(f"{what} is refused", False)


channel = grpc.insecure_channel(client_address)
peer_channel = grpc.insecure_channel(peer_address)
kv, node = rpc.KVStoreStub(channel), rpc.NodeInternalStub(channel)
peer = rpc.NodeInternalStub(peer_channel)

# Get and Put.
absent = kv.Get(pb.GetRequest(key="interop/absent"))
check("an absent key", not absent.exists and absent.value == "" and absent.timestamp == 0)
first = kv.Put(pb.PutRequest(key="interop/a", value="one"))
check("a first put has no old value", not first.had_old_value and first.old_value == "")
second = kv.Put(pb.PutRequest(key="interop/a", value="zwei ✓"))
check("a second put has", second.had_old_value and second.old_value == "one")
got = kv.Get(pb.GetRequest(key="interop/a", client_id=7, request_id=8))
check("a get returns it", got.exists and got.value == "zwei ✓" and got.timestamp > 0)
kv.Put(pb.PutRequest(key="interop/empty", value=""))
empty = kv.Get(pb.GetRequest(key="interop/empty"))
check("an empty value exists", empty.exists and empty.value == "")
big = "x" * (1 << 20)
kv.Put(pb.PutRequest(key="interop/big", value=big))
check("a value of 1 MiB", kv.Get(pb.GetRequest(key="interop/big")).value == big)

# Named operations.
named = pb.PutRequest(key="interop/named", value="v1", client_id=77, request_id=1)
kv.Put(pb.PutRequest(key="interop/named", value="v0"))
answer = kv.Put(named)
version = kv.Get(pb.GetRequest(key="interop/named")).timestamp
again = kv.Put(named)
check("a repeated operation gives the same answer", again == answer and answer.old_value == "v0")
check("and the same version", kv.Get(pb.GetRequest(key="interop/named")).timestamp == version)
refused(
    "the same ids with another value",
    grpc.StatusCode.FAILED_PRECONDITION,
    lambda: kv.Put(pb.PutRequest(key="interop/named", value="other", client_id=77, request_id=1)),
)

# Bad input.
refused("an empty key", grpc.StatusCode.INVALID_ARGUMENT, lambda: kv.Put(pb.PutRequest(key="", value="v")))
refused("a key of 4097 bytes", grpc.StatusCode.INVALID_ARGUMENT, lambda: kv.Put(pb.PutRequest(key="k" * 4097, value="v")))
refused(
    "a value over the limit",
    grpc.StatusCode.INVALID_ARGUMENT,
    lambda: kv.Put(pb.PutRequest(key="interop/over", value="x" * ((1 << 20) + 1))),
)
refused(
    "a message over the limit",
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    lambda: kv.Put(pb.PutRequest(key="interop/over", value="x" * (5 << 20))),
)
raw = channel.unary_unary("/KVStore/Put", request_serializer=bytes, response_deserializer=bytes)
refused("a key that is not UTF-8", grpc.StatusCode.INVALID_ARGUMENT, lambda: raw(b"\x0a\x02\xff\xfe\x12\x01v"))
refused("bytes that are no message", grpc.StatusCode.INVALID_ARGUMENT, lambda: raw(b"\xff\xff\xff"))
unknown = channel.unary_unary("/KVStore/Steal", request_serializer=bytes, response_deserializer=bytes)
refused("an unknown method", grpc.StatusCode.UNIMPLEMENTED, lambda: unknown(b""))

# Node to node.
check("a heartbeat", node.Heartbeat(pb.Ping(node_id=99)) == pb.Pong() and peer.Heartbeat(pb.Ping()) == pb.Pong())
ring = node.GetRingState(pb.RingStateRequest())
check("the ring state", ring.version == 1 and list(ring.nodes.values()) == [True] and ring.updated_at > 0)
error = refused(
    "Replicate on the client port",
    grpc.StatusCode.UNIMPLEMENTED,
    lambda: node.Replicate(pb.ReplicateRequest(key="k", value="v", timestamp=1)),
)
check("which names the peer port", peer_address.rsplit(":", 1)[1] in error.details())
newer = got.timestamp + 1
check("Replicate takes a newer version", peer.Replicate(pb.ReplicateRequest(key="interop/a", value="three", timestamp=newer)).success)
check("which is read", kv.Get(pb.GetRequest(key="interop/a")).value == "three")
check("Replicate of an older one succeeds too", peer.Replicate(pb.ReplicateRequest(key="interop/a", value="old", timestamp=5)).success)
check("and changes nothing", kv.Get(pb.GetRequest(key="interop/a")).value == "three")
ahead = peer.Replicate(pb.ReplicateRequest(key="interop/a", value="far", timestamp=newer + (3_600_000 << 16)))
check("a timestamp far ahead is refused", not ahead.success and "ahead" in ahead.error)
zero = peer.Replicate(pb.ReplicateRequest(key="interop/a", value="zero", timestamp=0))
check("timestamp 0 is refused", not zero.success and zero.error != "")

sync = peer.SyncKeys(pb.SyncRequest(key_timestamps={"interop/a": 0, "interop/absent": 0, "interop/named": version}))
check("SyncKeys sends what is newer here", set(sync.missing) == {"interop/a"} and sync.missing["interop/a"].value == "three")
check("with its timestamp", sync.missing["interop/a"].timestamp == newer)
ranged = peer.SyncKeys(pb.SyncRequest(key_ranges={"interop/e": "interop/f"}))
check("SyncKeys takes ranges", set(ranged.missing) == {"interop/empty"})

# Many at once over one connection.
errors = []


def worker(number):
    try:
        for i in range(50):
            key = f"interop/w{number}/{i}"
            kv.Put(pb.PutRequest(key=key, value=str(i)))
            assert kv.Get(pb.GetRequest(key=key)).value == str(i)
    except Exception as error:  # noqa: BLE001
        errors.append(error)


threads = [threading.Thread(target=worker, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
check(f"16 threads on one channel: {errors[:1]}", not errors)

# Health and reflection.
health = health_pb2_grpc.HealthStub(channel)
serving = health_pb2.HealthCheckResponse.SERVING
check("health", health.Check(health_pb2.HealthCheckRequest()).status == serving)
check("health of KVStore", health.Check(health_pb2.HealthCheckRequest(service="KVStore")).status == serving)
refused(
    "health of a stranger",
    grpc.StatusCode.NOT_FOUND,
    lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody")),
)
for package in ["v1alpha", "v1"]:
    ask = channel.stream_stream(
        f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    reply = next(iter(ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))))
    names = {service.name for service in reply.list_services_response.service}
    wanted = {"KVStore", "NodeInternal", "ringcore.v1.KV", "ringcore.v1.Cluster", "grpc.health.v1.Health"}
    check(f"reflection {package} lists the services, not only {names}", wanted <= names)
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="KVStore")
    reply = next(iter(ask(iter([symbol]))))
    check(f"reflection {package} has the file of KVStore", reply.file_descriptor_response.file_descriptor_proto)

print(f"interop: {checks} checks held")
