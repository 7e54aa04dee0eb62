// Generate text with a charrnn model (docs/format.md). The model itself samples the next character.
//
//   charrnn models/lstm.onnx --prime "LORD " --length 300 --seed 1
//
// prints the same text as `charrnn-gen` with the same options (`charrnn-gen --raw` for a byte-level model).

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

struct UsageError : std::runtime_error { using runtime_error::runtime_error; };

struct Options {
    std::string model, prime;
    std::int64_t length = 1000, top_k = std::numeric_limits<std::int64_t>::max();
    std::uint64_t seed = std::random_device{}();
    double temperature = 0.8, top_p = 1, min_p = 0;
};

template <typename Number>
void read_number(const std::string& option, const std::string& text, Number& number, Number least,
                 Number most) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() || !(number >= least && number <= most)) {
        std::ostringstream said;
        said << option << " takes a number from " << least << " to " << most << ", not '" << text << "'";
        throw UsageError(said.str());
    }
}

Options read_options(const std::vector<std::string>& words) {
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    Options options;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (!word.starts_with("--")) {
            if (!options.model.empty()) throw UsageError("give one model; '" + word + "' is a second one");
            options.model = word;
        } else if (word == "--greedy") {
            options.top_k = 1;
        } else {
            if (i + 1 == words.size()) throw UsageError(word + " is unknown or has no value");
            const std::string& value = words[++i];
            if (word == "--prime") options.prime = value;
            else if (word == "--length") read_number(word, value, options.length, {0}, most / 2);
            else if (word == "--seed") read_number(word, value, options.seed, {0}, ~std::uint64_t{0});
            else if (word == "--temperature") read_number(word, value, options.temperature, 1e-4, 1e4);
            else if (word == "--top-k") read_number(word, value, options.top_k, {1}, most);
            else if (word == "--top-p") read_number(word, value, options.top_p, 1e-45, 1.0);
            else if (word == "--min-p") read_number(word, value, options.min_p, 0.0, 0x1.fffffep-1);
            else throw UsageError("there is no option " + word);
        }
    }
    if (options.model.empty()) throw UsageError("give a model: charrnn MODEL.onnx [--prime TEXT] ...");
    return options;
}

// --- random numbers: a pure function of seed, stream and position (docs/format.md#random-numbers) ----------

constexpr std::uint64_t golden = 0x9E3779B97F4A7C15;

constexpr std::uint64_t mix(std::uint64_t z) {  // splitmix64's finalizer
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

constexpr std::uint64_t uniform_24(std::uint64_t seed, std::uint64_t stream, std::uint64_t position) {
    return mix(mix(seed + golden * (stream + 1)) + golden * (position + 1)) >> 40;
}

static_assert(uniform_24(0, 0, 0) == 10946269 && uniform_24(0, 0, 1) == 11764387);
static_assert(uniform_24(0, 1, 0) == 4634430 && uniform_24(42, 3, 1000) == 12546144);

// --- the model ---------------------------------------------------------------------------------------------

class Model {
public:
    Model(const Ort::Env& env, const std::string& path, const Ort::SessionOptions& options)
        : session_(env, std::filesystem::path(path).c_str(), options) {
        Ort::AllocatorWithDefaultOptions allocator;
        const auto metadata = [&, all = session_.GetModelMetadata()](const std::string& key) {
            const auto value = all.LookupCustomMetadataMapAllocated(("charrnn." + key).c_str(), allocator);
            if (!value) throw std::runtime_error(path + " is not a charrnn model: it has no charrnn." + key);
            return std::string(value.get());
        };
        if (metadata("format") != "step" || metadata("version") != "1")
            throw std::runtime_error(path + " has another format; this program runs step models, version 1");
        symbols_ = nlohmann::json::parse(metadata("vocabulary")).get<std::vector<std::string>>();
        bytes_ = metadata("level") == "byte";
        for (int byte = 0; bytes_ && byte < 256; ++byte) symbols_.emplace_back(1, static_cast<char>(byte));
        for (const auto& symbol : symbols_) ids_.emplace(symbol, std::ssize(ids_));
        start_token_ = std::stoll(metadata("start_token"));
        top_k_max_ = std::stoll(metadata("top_k_max"));
        state_size_ = session_.GetInputTypeInfo(1).GetTensorTypeAndShapeInfo().GetShape().at(1);
    }

    // The ids of a text's bytes or UTF-8 characters.
    std::vector<std::int64_t> encode(const std::string& text) const {
        std::vector<std::int64_t> ids;
        for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
            do ++end;
            while (!bytes_ && end < text.size() && (text[end] & 0xC0) == 0x80);
            const auto found = ids_.find(text.substr(begin, end - begin));
            if (found == ids_.end())
                throw std::runtime_error("the model does not know '" + text.substr(begin, end - begin) +
                                         "' in --prime");
            ids.push_back(found->second);
        }
        return ids;
    }

    // Write the prompt once it is encoded, then read it and write each symbol as it is generated.
    void generate(const Options& options, const std::invocable<std::string> auto& write) {
        std::vector<std::int64_t> prompt = encode(options.prime);
        write(options.prime);
        if (prompt.empty()) prompt.push_back(start_token_);
        std::int64_t token = 0, next_token = 0;
        std::int64_t top_k = std::min(options.top_k, top_k_max_);  // top_k_max turns it off
        float uniform = 0, temperature = static_cast<float>(options.temperature);
        float top_p = static_cast<float>(options.top_p), min_p = static_cast<float>(options.min_p);
        std::array<std::vector<float>, 2> states;  // each step reads one and writes the other
        for (auto& state : states) state.assign(static_cast<std::size_t>(state_size_), 0.0F);

        // No tensor moves, so two bindings, for even and odd steps, serve all steps.
        std::vector<Ort::IoBinding> bindings;
        for (int from = 0; from < 2; ++from) {
            Ort::IoBinding& binding = bindings.emplace_back(session_);
            binding.BindInput("token", tensor(&token, {1}));
            binding.BindInput("state", tensor(states[from].data(), {1, state_size_}));
            binding.BindInput("uniform", tensor(&uniform, {1}));
            binding.BindInput("temperature", tensor(&temperature, {1}));
            binding.BindInput("top_k", tensor(&top_k, {1}));
            binding.BindInput("top_p", tensor(&top_p, {1}));
            binding.BindInput("min_p", tensor(&min_p, {1}));
            binding.BindOutput("next_token", tensor(&next_token, {1}));
            binding.BindOutput("next_state", tensor(states[1 - from].data(), {1, state_size_}));
        }
        const std::int64_t read = std::ssize(prompt) - 1;  // the steps before the first sample
        for (std::int64_t step = 0; step < read + options.length; ++step) {
            const std::int64_t position = step - read;  // negative while the prompt is read
            token = position <= 0 ? prompt[static_cast<std::size_t>(step)] : next_token;
            if (position >= 0) {
                const auto drawn = uniform_24(options.seed, 0, static_cast<std::uint64_t>(position));
                uniform = static_cast<float>(drawn) * 0x1p-24F;
            }
            session_.Run(run_options_, bindings[static_cast<std::size_t>(step % 2)]);
            if (position >= 0) write(symbols_.at(static_cast<std::size_t>(next_token)));
        }
    }

private:
    template <typename Number>
    Ort::Value tensor(Number* data, const std::vector<std::int64_t>& shape) const {
        const auto count = static_cast<std::size_t>(shape.size() == 2 ? shape[1] : 1);
        return Ort::Value::CreateTensor<Number>(memory_, data, count, shape.data(), shape.size());
    }

    Ort::Session session_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::RunOptions run_options_;
    std::vector<std::string> symbols_;
    std::unordered_map<std::string, std::int64_t> ids_;
    std::int64_t start_token_ = 0, top_k_max_ = 0, state_size_ = 0;
    bool bytes_ = false;
};

}  // namespace

int main(int argc, char** argv) try {
    const Options options = read_options({argv + 1, argv + argc});
    const Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
    Ort::SessionOptions one_thread;
    one_thread.SetIntraOpNumThreads(1);  // steps of one stream are too small for two threads
    Model model(env, options.model, one_thread);
    model.generate(options, [](const std::string& text) { std::cout << text << std::flush; });
    return std::cout ? 0 : 1;
} catch (const std::exception& error) {
    std::cerr << "charrnn: error: " << error.what() << '\n';
    return dynamic_cast<const UsageError*>(&error) ? 2 : 1;
}
