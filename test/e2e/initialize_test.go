// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// sieve is testdata/sieve.c as a module.
func sieve(t testing.TB) []byte {
	t.Helper()
	needsTools(t, "clang", "wasm-ld")
	file := filepath.Join(t.TempDir(), "sieve.wasm")
	out, err := exec.Command("clang", "--target=wasm32", "-O2", "-nostdlib", "-Wl,--no-entry", "-o", file, "testdata/sieve.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	module, err := os.ReadFile(file)
	require.NoError(t, err)
	return module
}

// A guest is initialised once, in the compiler, and all containers start from there:
// what its function does is not done again, and takes none of their fuel.
func TestInitialize(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "initialises nothing")
	files := smoke.Files(tt)
	files["sieve.wasm"] = harness.File{Data: sieve(t)}
	image := tt.Image("sieve", files, ocispec.ImageConfig{})
	const debug = "log_level = 'debug'\n"
	const little = "fuel = 1000000\n" // much less than the function takes
	annotated := []oci.SpecOpts{annotation("initialize", "prepare")}
	for _, test := range []struct {
		name           string
		options        string
		opts           []oci.SpecOpts
		code           uint32
		stdout, stderr string
		log            []string
	}{
		{name: "not", options: debug + "[engine]\n" + little, code: 134, stderr: "all fuel consumed"},
		{name: "first", options: debug + "[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"initialised ", "compiled ", "mapped the artifact of /sieve.wasm"}},
		{name: "again", options: debug + "[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"mapped the artifact of /sieve.wasm"}},
		{name: "by an annotation", options: debug + "allow_annotations = ['initialize']\n[engine]\n" + little, opts: annotated, stdout: "-+", log: []string{"mapped the artifact of /sieve.wasm"}},
		{name: "when it starts", options: debug + "compile_timeout = '0s'\n[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"initialised /sieve.wasm"}},
		{
			name: "no such function", options: debug + "[engine]\ninitialize = 'nope'", code: 126,
			stderr: `cannot initialise /sieve.wasm by its function "nope": it has no export "nope"; exported functions: prepare, forever, deep, greedy, asleep, _start`,
			log:    []string{"the guest's original is run, without an artifact", "compiling failed: cannot initialise "},
		},
		{
			name: "what does not end", options: debug + "compile_timeout = '1s'\n[engine]\ntimeout = '500ms'\ninitialize = 'forever'", code: 134,
			stderr: "the guest ran for longer than its timeout of 500 ms", log: []string{"the compiler took longer than 1s"},
		},
		{
			name: "what sleeps", options: debug + "compile_timeout = '1s'\n[engine]\ntimeout = '500ms'\ninitialize = 'asleep'", code: 134,
			stderr: "the guest ran for longer than its timeout of 500 ms", log: []string{"the compiler has done nothing for 1s"},
		},
		{
			name: "what recurses", options: debug + "[engine]\ninitialize = 'deep'", code: 134,
			stderr: "call stack exhausted", log: []string{"compiling failed: cannot initialise ", "call stack exhausted"},
		},
		{
			name: "what takes memory", options: debug + "compile_memory = '128MiB'\n[engine]\ninitialize = 'greedy'", code: 137,
			opts: []oci.SpecOpts{oci.WithMemoryLimit(128 << 20)}, log: []string{"the compiler took more than 128 MiB of memory: compile_memory is too small for this code"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := harness.FreshID("c")
			result := tt.Once(harness.Config{ID: id, Image: image, Args: []string{"/sieve.wasm"}, RuntimeOptions: body(test.options), Opts: test.opts})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Equal(t, test.stdout, result.Stdout)
			require.Contains(t, result.Stderr, test.stderr)
			lines := strings.Join(logLines(tt, id), "\n")
			for _, line := range test.log {
				require.Contains(t, lines, line)
			}
			if test.name == "again" || test.name == "by an annotation" {
				require.NotContains(t, lines, "initialised ")
			}
		})
	}
	t.Run("by an annotation that is not allowed", func(t *testing.T) {
		requireRefused(tt, harness.Config{Image: image, Args: []string{"/sieve.wasm"}, Opts: annotated}, codes.PermissionDenied,
			"annotation engine.libwasmshim.io/initialize is not allowed here")
	})
}

// What npm has of Ruby is for JavaScript, and binaryen makes a program of it.
const (
	rubyPackage     = "@ruby/3.4-wasm-wasi@2.10.1"
	binaryenPackage = "binaryen@132.0.0"
	zigPackage      = "ziglang==0.17.1"
)

// ruby is testdata/ruby's program: it runs /app.rb.
func ruby(t testing.TB) []byte {
	return languageGuest(t, "ruby", rubyPackage+" "+binaryenPackage, func(dir string) {
		output(t, dir, "npm does not have "+rubyPackage+" or "+binaryenPackage, "npm", "install", "--ignore-scripts", "--no-fund", "--no-audit",
			rubyPackage, binaryenPackage)
		args := []string{"node_modules/.bin/wasm-merge", "--enable-bulk-memory", "--enable-bulk-memory-opt", "--enable-mutable-globals", "--enable-multivalue", "--enable-nontrapping-float-to-int", "--enable-sign-ext"}
		for _, part := range []string{"rb-js-abi-host", "canonical_abi", "wasi_snapshot_preview1"} {
			args = append(args, part+".wat", part)
		}
		args = append(args, "node_modules/@ruby/3.4-wasm-wasi/dist/ruby.wasm", "ruby", "main.wat", "main", "-o", "app.wasm")
		output(t, dir, "", "node", args...)
	})
}

// cGuest is testdata/initialize-c's program, with a C library.
func cGuest(t testing.TB) []byte {
	return languageGuest(t, "initialize-c", zigPackage, func(dir string) {
		env := filepath.Join(t.TempDir(), "env")
		output(t, dir, "python3 makes no environment", "python3", "-m", "venv", env)
		output(t, dir, "PyPI does not have "+zigPackage, env+"/bin/pip", "install", "--quiet", zigPackage)
		t.Setenv("ZIG_GLOBAL_CACHE_DIR", t.TempDir())
		output(t, dir, "", env+"/bin/python", "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-o", "app.wasm", "app.c")
	})
}

func goReactor(t testing.TB) []byte { return goGuest(t, "initialize-go", "-buildmode=c-shared") }

func rustProgram(t testing.TB) []byte {
	canBuild(t, "wasm32-wasip1")
	program, err := rustcGuest("initialize.rs", "wasm32-wasip1")
	require.NoError(t, err)
	return program
}

// What guests of three languages find later, by what they have asked for while they were
// initialised: docs/operators.md says it.
func TestInitializeLanguages(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "initialises nothing")
	for language, test := range map[string]struct {
		guest func(testing.TB) []byte
		entry string
		want  map[string]string // by function
	}{
		"C": {guest: cGuest, want: map[string]string{
			"":           "nothing; file 1, variable value, arguments 1 (/app.wasm), back 0\n",
			"prepare":    "prepared; file 1, variable value, arguments 1 (/app.wasm), back 0\n",
			"speak":      "spoke; file 1, variable value, arguments 1 (/app.wasm), back 0\n",
			"look":       "file 0; file 0, variable value, arguments 1 (/app.wasm), back 0\n",
			"look_again": "file 0; file 1, variable value, arguments 1 (/app.wasm), back 0\n",
			"ask":        "variable none; file 1, variable none, arguments 1 (/app.wasm), back 0\n",
		}},
		"Rust": {guest: rustProgram, want: map[string]string{
			"":        `0 None; file true, variable value, arguments ["/app.wasm"]` + "\n",
			"prepare": `1000 Some("prepared 777"); file true, variable value, arguments ["/app.wasm"]` + "\n",
			"speak":   `1000 Some("spoke 777"); file true, variable value, arguments ["/app.wasm"]` + "\n",
			"look":    `1000 Some("file false 777"); file false, variable value, arguments ["/app.wasm"]` + "\n",
			"ask":     `1000 Some("variable none 777"); file true, variable none, arguments ["/app.wasm"]` + "\n",
			"count":   `1000 Some("arguments 0 777"); file true, variable value, arguments ["/app.wasm"]` + "\n",
		}},
		"Go": {guest: goReactor, entry: "#serve", want: map[string]string{
			"":        "0 0; file true, variable \"value\", arguments 1, back false\n",
			"prepare": "1000 777; file false, variable \"\", arguments 0, back false\n",
		}},
	} {
		t.Run(language, func(t *testing.T) {
			image := tt.Image("initialize-"+strings.ToLower(language), map[string]harness.File{
				"app.wasm": {Data: test.guest(t)}, "etc/motd": {Data: []byte("hello\n")}, "proc/": {}, "dev/": {}, "sys/": {},
			}, ocispec.ImageConfig{})
			for function, want := range test.want {
				options := slowly
				if function != "" {
					options += "initialize = '" + function + "'"
				}
				id := harness.FreshID("c")
				result := tt.Once(harness.Config{ID: id, Image: image, Args: []string{"/app.wasm" + test.entry}, Env: []string{"NAME=value"}, RuntimeOptions: body(options)})
				require.Equal(t, want, result.Stdout, "%s: %+v", function, result)
				if function == "speak" {
					require.Contains(t, strings.Join(logLines(tt, id), "\n"), "wrote while it was initialised: to nobody")
				}
			}
		})
	}
}

// An interpreter that has started, and the program that has made its table, are there at
// once; and it reads the container's files.
func TestInitializeRuby(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "initialises nothing")
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), harness.Slow(10*time.Minute))
	t.Cleanup(cancel)
	tt.Ctx = ctx
	files := smoke.Files(tt)
	files["app.wasm"] = harness.File{Data: ruby(t)}
	files["app.rb"] = harness.File{Data: []byte("GC.start\nputs \"#{RUBY_VERSION} #{TABLE.size} #{TABLE['777']}\", STARTED\n")}
	image := tt.Image("ruby", files, ocispec.ImageConfig{})
	start := func(guest, options string) (result harness.Result, fastest time.Duration) {
		for range 5 {
			begun := time.Now()
			next := tt.Once(harness.Config{Image: image, Args: []string{guest}, RuntimeOptions: body(slowly + options)})
			took := time.Since(begun)
			require.Zero(t, next.Code, "%+v", next)
			if result.Stdout != "" {
				require.Equal(t, result.Stdout, next.Stdout, "it is not initialised once")
				fastest = min(took, cmp.Or(fastest, took))
			}
			result = next
		}
		return result, fastest
	}
	_, hello := start("/hello.wasm", "")
	result, ruby := start("/app.wasm", "initialize = 'boot'")
	require.Regexp(t, `^3\.4\.\d+ 20000 777\n\d+\.\d+\n$`, result.Stdout)
	t.Logf("a container's life: hello %v, Ruby that is initialised, and collects its garbage, %v: %.2f times as long", hello, ruby, float64(ruby)/float64(hello))
}
