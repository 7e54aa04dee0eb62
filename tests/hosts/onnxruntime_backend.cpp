// A stand-in for Triton's ONNX Runtime backend, which the server that the tests have at hand lacks.
//
// It does for a step model what that backend does by Triton's documentation of stateful models: it runs the
// requests of a batch in one step, reads the inputs and the implicit state from each, and gives each its outputs
// and its next state. Checking the configuration, batching sequences, keeping their states
// and beginning them with zeros is the server's own work.

#include <onnxruntime_cxx_api.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

// What is used of Triton's backend API (tritonbackend.h and tritonserver.h in triton-inference-server/core).
extern "C" {
struct Error;
struct Input;
struct Model;
struct Instance;
struct Output;
struct Request;
struct Response;
struct State;
Error* TRITONSERVER_ErrorNew(int code, const char* message);
Error* TRITONBACKEND_ModelRepository(Model*, int* artifact_type, const char** location);
Error* TRITONBACKEND_ModelVersion(Model*, uint64_t* version);
Error* TRITONBACKEND_ModelSetState(Model*, void* state);
Error* TRITONBACKEND_ModelState(Model*, void** state);
Error* TRITONBACKEND_ModelInstanceModel(Instance*, Model** model);
Error* TRITONBACKEND_RequestInput(Request*, const char* name, Input** input);
Error* TRITONBACKEND_InputProperties(Input*, const char** name, int* type, const int64_t** shape,
                                     uint32_t* rank, uint64_t* bytes, uint32_t* buffers);
Error* TRITONBACKEND_InputBuffer(Input*, uint32_t index, const void** buffer, uint64_t* bytes, int* memory,
                                 int64_t* memory_id);
Error* TRITONBACKEND_RequestOutputCount(Request*, uint32_t* count);
Error* TRITONBACKEND_RequestOutputName(Request*, uint32_t index, const char** name);
Error* TRITONBACKEND_RequestRelease(Request*, uint32_t flags);
Error* TRITONBACKEND_ResponseNew(Response**, Request*);
Error* TRITONBACKEND_ResponseOutput(Response*, Output**, const char* name, int type, const int64_t* shape,
                                    uint32_t rank);
Error* TRITONBACKEND_OutputBuffer(Output*, void** buffer, uint64_t bytes, int* memory, int64_t* memory_id);
Error* TRITONBACKEND_ResponseSend(Response*, uint32_t flags, Error* error);
Error* TRITONBACKEND_StateNew(State**, Request*, const char* name, int type, const int64_t* shape,
                              uint32_t rank);
Error* TRITONBACKEND_StateBuffer(State*, void** buffer, uint64_t bytes, int* memory, int64_t* memory_id);
Error* TRITONBACKEND_StateUpdate(State*);
}

namespace {

constexpr int internal = 1, int64 = 9, fp32 = 11, cpu = 0, all = 1, final = 1;

struct Failure {
    Error* error;
};

void check(Error* error) {
    if (error != nullptr) throw Failure{error};
}

struct Tensor {
    std::string name;
    int type = fp32;
    std::vector<int64_t> shape;  // [batch, ...]
    std::vector<char> bytes;

    // How many bytes a row has, when there are as many rows as the shape says.
    size_t row() const {
        return (type == int64 ? 8 : 4) * static_cast<size_t>(shape.size() == 2 ? shape[1] : 1);
    }

    Ort::Value value(const Ort::MemoryInfo& memory) {
        return Ort::Value::CreateTensor(
            memory, bytes.data(), bytes.size(), shape.data(), shape.size(),
            type == int64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    }
};

Tensor tensor(const std::string& name, const Ort::TypeInfo& info, int64_t batch) {
    const auto described = info.GetTensorTypeAndShapeInfo();
    Tensor made{name, described.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? int64 : fp32,
                described.GetShape(), {}};
    made.shape[0] = batch;
    made.bytes.resize(made.row() * static_cast<size_t>(batch));
    return made;
}

struct Step {
    Ort::Env env{ORT_LOGGING_LEVEL_ERROR};
    Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::AllocatorWithDefaultOptions allocator;
    std::unique_ptr<Ort::Session> session;

    explicit Step(const std::string& path) {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1);
        session = std::make_unique<Ort::Session>(env, path.c_str(), options);
    }

    std::map<std::string, Tensor> run(const std::vector<Request*>& requests) {
        const auto batch = static_cast<int64_t>(requests.size());
        std::vector<Tensor> inputs, outputs;
        for (size_t i = 0; i < session->GetInputCount(); ++i) {
            const auto name = session->GetInputNameAllocated(i, allocator);
            inputs.push_back(tensor(name.get(), session->GetInputTypeInfo(i), batch));
            for (size_t row = 0; row < requests.size(); ++row) read(requests[row], inputs.back(), row);
        }
        for (size_t i = 0; i < session->GetOutputCount(); ++i) {
            const auto name = session->GetOutputNameAllocated(i, allocator);
            outputs.push_back(tensor(name.get(), session->GetOutputTypeInfo(i), batch));
        }
        Ort::IoBinding binding(*session);
        for (auto& each : inputs) binding.BindInput(each.name.c_str(), each.value(memory));
        for (auto& each : outputs) binding.BindOutput(each.name.c_str(), each.value(memory));
        session->Run(Ort::RunOptions(), binding);
        std::map<std::string, Tensor> named;
        for (auto& each : outputs) named.emplace(each.name, std::move(each));
        return named;
    }

    static void read(Request* request, Tensor& input, size_t row) {
        Input* given = nullptr;
        const char* name = nullptr;
        const int64_t* shape = nullptr;
        const void* buffer = nullptr;
        int type = 0, where = cpu;
        uint32_t rank = 0, buffers = 0;
        uint64_t bytes = 0;
        int64_t where_id = 0;
        check(TRITONBACKEND_RequestInput(request, input.name.c_str(), &given));
        check(TRITONBACKEND_InputProperties(given, &name, &type, &shape, &rank, &bytes, &buffers));
        check(TRITONBACKEND_InputBuffer(given, 0, &buffer, &bytes, &where, &where_id));
        if (type != input.type || rank != input.shape.size() || shape[0] != 1 || buffers != 1 ||
            bytes != input.row())
            throw std::runtime_error(input.name + " has another type or shape than the model's");
        std::memcpy(input.bytes.data() + row * bytes, buffer, bytes);
    }
};

void answer(Request* request, Response* response, std::map<std::string, Tensor>& outputs, size_t row) {
    int where = cpu;
    int64_t where_id = 0;
    void* buffer = nullptr;
    uint32_t count = 0;
    check(TRITONBACKEND_RequestOutputCount(request, &count));
    for (uint32_t i = 0; i < count; ++i) {
        const char* name = nullptr;
        Output* output = nullptr;
        check(TRITONBACKEND_RequestOutputName(request, i, &name));
        Tensor& made = outputs.at(name);
        std::vector<int64_t> shape = made.shape;
        shape[0] = 1;
        check(TRITONBACKEND_ResponseOutput(response, &output, name, made.type, shape.data(),
                                           static_cast<uint32_t>(shape.size())));
        check(TRITONBACKEND_OutputBuffer(output, &buffer, made.row(), &where, &where_id));
        std::memcpy(buffer, made.bytes.data() + row * made.row(), made.row());
    }
    Tensor& next = outputs.at("next_state");
    const int64_t shape[] = {1, next.shape[1]};
    State* state = nullptr;
    check(TRITONBACKEND_StateNew(&state, request, "next_state", fp32, shape, 2));
    check(TRITONBACKEND_StateBuffer(state, &buffer, next.row(), &where, &where_id));
    std::memcpy(buffer, next.bytes.data() + row * next.row(), next.row());
    check(TRITONBACKEND_StateUpdate(state));
}

// Runs something, and gives Triton's form of what it throws.
template <typename Work>
Error* guarded(Work work) {
    try {
        work();
        return nullptr;
    } catch (const Failure& failure) {
        return failure.error;
    } catch (const std::exception& error) {
        return TRITONSERVER_ErrorNew(internal, error.what());
    }
}

}  // namespace

extern "C" Error* TRITONBACKEND_ModelInitialize(Model* model) {
    return guarded([&] {
        int kind = 0;
        const char* folder = nullptr;
        uint64_t version = 0;
        check(TRITONBACKEND_ModelRepository(model, &kind, &folder));
        check(TRITONBACKEND_ModelVersion(model, &version));
        const std::string path = std::string(folder) + "/" + std::to_string(version) + "/model.onnx";
        check(TRITONBACKEND_ModelSetState(model, new Step(path)));
    });
}

extern "C" Error* TRITONBACKEND_ModelFinalize(Model* model) {
    return guarded([&] {
        void* step = nullptr;
        check(TRITONBACKEND_ModelState(model, &step));
        delete static_cast<Step*>(step);
    });
}

extern "C" Error* TRITONBACKEND_ModelInstanceExecute(Instance* instance, Request** given, uint32_t count) {
    const std::vector<Request*> requests(given, given + count);
    std::map<std::string, Tensor> outputs;
    Error* failed = guarded([&] {
        Model* model = nullptr;
        void* step = nullptr;
        check(TRITONBACKEND_ModelInstanceModel(instance, &model));
        check(TRITONBACKEND_ModelState(model, &step));
        outputs = static_cast<Step*>(step)->run(requests);
    });
    if (failed != nullptr) return failed;  // the requests are still Triton's
    for (size_t row = 0; row < requests.size(); ++row) {
        Response* response = nullptr;
        if (TRITONBACKEND_ResponseNew(&response, requests[row]) == nullptr) {
            Error* error = guarded([&] { answer(requests[row], response, outputs, row); });
            TRITONBACKEND_ResponseSend(response, final, error);
        }
        TRITONBACKEND_RequestRelease(requests[row], all);
    }
    return nullptr;
}
