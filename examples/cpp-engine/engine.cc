// SPDX-License-Identifier: Apache-2.0

// An engine in C++17: a class on wasmtime's C++ API. Exceptions are its way to
// say what went wrong; none of them crosses the border to the library.

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <wasmtime.hh>

#include "wasm_shim.h"

namespace {

// What ends a guest: a status, and a sentence for the user.
struct Failure : std::runtime_error {
    Failure(int32_t status, const std::string &what) : std::runtime_error(what), status(status) {
    }
    int32_t status;
};

template <typename T, typename E> T need(int32_t status, wasmtime::Result<T, E> result) {
    if (!result)
        throw Failure(status, result.err().message());
    return result.unwrap();
}

class Guest {
  public:
    explicit Guest(wasm_shim_context *ctx) : ctx_(ctx) {
    }

    // The guest's exit code.
    int32_t run() {
        wasmtime::Store store(engine_);
        need(WASM_SHIM_ERROR, store.context().set_wasi(wasi()));
        wasmtime::Linker linker(engine_);
        need(WASM_SHIM_ERROR, linker.define_wasi());
        auto instance = need(WASM_SHIM_ERROR_LOAD, linker.instantiate(store, load()));
        auto item = instance.get(store, wasm_shim_entry_func(ctx_));
        auto *start = item ? std::get_if<wasmtime::Func>(&*item) : nullptr;
        if (start == nullptr)
            throw Failure(WASM_SHIM_ERROR_LOAD,
                          std::string("the guest does not export the function ") + wasm_shim_entry_func(ctx_));
        auto result = start->call(store, {});
        if (result)
            return 0;
        auto why = result.err();
        if (auto *error = std::get_if<wasmtime::Error>(&why.data))
            if (auto code = error->i32_exit())
                return *code; // the guest called exit()
        throw Failure(WASM_SHIM_ERROR_TRAP, why.message());
    }

    void compile() {
        auto code = need(WASM_SHIM_ERROR, translate().serialize());
        if (wasm_shim_artifact_write(ctx_, 0, code.data(), code.size()) < 0)
            throw std::system_error(errno, std::generic_category(), "write the artifact");
    }

  private:
    // The guest's module: from its artifact, or else from its code.
    wasmtime::Module load() {
        size_t size;
        auto *code = wasm_shim_artifact_bytes(ctx_, 0, &size);
        if (code == nullptr)
            return translate();
        auto module = wasmtime::Module::deserialize(engine_, {const_cast<uint8_t *>(code), size});
        if (module)
            return module.unwrap();
        wasm_shim_artifact_refuse(ctx_, 0, std::string(module.err().message()).c_str());
        return translate();
    }

    wasmtime::Module translate() {
        size_t size;
        auto *code = wasm_shim_layer_bytes(ctx_, 0, &size);
        if (code == nullptr)
            throw Failure(WASM_SHIM_ERROR_LOAD, std::strerror(errno));
        return need(WASM_SHIM_ERROR_COMPILE,
                    wasmtime::Module::compile(engine_, wasmtime::Span<uint8_t>(const_cast<uint8_t *>(code), size)));
    }

    wasmtime::WasiConfig wasi() {
        wasmtime::WasiConfig wasi;
        const char *const *list;
        size_t count = wasm_shim_args(ctx_, &list);
        wasi.argv(std::vector<std::string>(list, list + count));
        count = wasm_shim_env(ctx_, &list);
        std::vector<std::pair<std::string, std::string>> env;
        for (std::string kv : std::vector<std::string>(list, list + count))
            env.emplace_back(kv.substr(0, kv.find('=')), kv.substr(kv.find('=') + 1));
        wasi.env(env);
        for (size_t i = 0; i < wasm_shim_preopen_count(ctx_); i++)
            if (!wasi.preopen_dir(wasm_shim_preopen_host(ctx_, i), wasm_shim_preopen_guest(ctx_, i),
                                  WASMTIME_WASI_DIR_PERMS_READ | WASMTIME_WASI_DIR_PERMS_WRITE,
                                  WASMTIME_WASI_FILE_PERMS_READ | WASMTIME_WASI_FILE_PERMS_WRITE))
                throw Failure(WASM_SHIM_ERROR, std::string("cannot open ") + wasm_shim_preopen_host(ctx_, i));
        wasi.inherit_stdin();
        wasi.inherit_stdout();
        wasi.inherit_stderr();
        return wasi;
    }

    wasm_shim_context *ctx_;
    wasmtime::Engine engine_;
};

// Constructed before main, in every process: keep such things small.
const struct Environment {
    // One thread for what WASI does in the background, not one for each CPU. The
    // library empties the environment before a callback.
    void prepare() const {
        setenv("TOKIO_WORKER_THREADS", threads.c_str(), 1);
    }
    std::string threads = std::to_string(1);
} environment;

// The border: whatever is thrown becomes a status and a message.
template <typename F> int32_t guarded(wasm_shim_context *ctx, F f) noexcept {
    try {
        environment.prepare();
        f();
        return WASM_SHIM_OK;
    } catch (const Failure &failure) {
        wasm_shim_set_error(ctx, failure.what());
        return failure.status;
    } catch (const std::exception &e) {
        wasm_shim_set_error(ctx, e.what());
    } catch (...) {
        wasm_shim_set_error(ctx, "an exception of an unknown type");
    }
    return WASM_SHIM_ERROR;
}

int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *) {
    return guarded(ctx, [&] { *exit_code = Guest(ctx).run(); });
}

int32_t compile(wasm_shim_context *ctx, void *) {
    return guarded(ctx, [&] { Guest(ctx).compile(); });
}

} // namespace

int main(int argc, char **argv) {
    wasm_shim_engine engine = {};
    engine.size = sizeof(engine);
    engine.abi_major = WASM_SHIM_ABI_MAJOR;
    engine.abi_minor = WASM_SHIM_ABI_MINOR;
    engine.kinds = WASM_SHIM_KIND_MODULE;
    engine.name = "cpp-engine";
    engine.version = "0.1.0";
    engine.cache_key = "1";
    engine.run_wasi = run_wasi;
    engine.compile = compile;
    return wasm_shim_main(argc, argv, &engine);
}
