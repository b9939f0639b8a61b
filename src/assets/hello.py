import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel("127.0.0.1:7717")
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
service = pool.FindServiceByName("KVStore")

def call(name, **fields):
    method = service.methods_by_name[name]
    request = message_factory.GetMessageClass(method.input_type)(**fields)
    answer = message_factory.GetMessageClass(method.output_type)
    rpc = channel.unary_unary(f"/KVStore/{name}", lambda m: m.SerializeToString(), answer.FromString)
    return rpc(request, timeout=5)

call("Put", key="hello", value="world")
print(call("Get", key="hello").value)
