// SPDX-License-Identifier: Apache-2.0

package cabi_test

import (
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
)

var update = flag.Bool("update", false, "write the corpus anew")

// build compiles C sources under the sanitizers and returns the program.
func build(t *testing.T, sources ...string) string {
	out := filepath.Join(t.TempDir(), "program")
	args := []string{
		"-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-I../include",
		"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", out,
	}
	text, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput()
	require.NoError(t, err, "%s", text)
	return out
}

func record(tag uint32, value string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, tag)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	b = append(b, value...)
	b = append(b, 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// whole puts a header before records.
func whole(records ...[]byte) string {
	b := []byte("wasmshim\x01\x00\x00\x00\x00\x00\x00\x00")
	for _, r := range records {
		b = append(b, r...)
	}
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
	return string(b)
}

// sample has every tag once or more.
func sample() string {
	return whole(
		record(1, "c1"), record(2, "p1"), record(3, "k8s.io"), record(4, "/hello.wasm"), record(4, ""), record(4, "-x"),
		record(5, "PATH=/bin"), record(5, "E="), record(6, "/app/hello.wasm"), record(7, "run"), record(8, "hello"),
		record(9, "/work"), record(10, "opt-level=2"), record(11, "debug"), record(12, "\x02\x00\x00\x00"),
		record(14, "\x00\x00\x00\x80\x00\x00\x00\x00"), record(15, "\xdc\x05\x00\x00\x00\x00\x00\x00"),
		record(16, "/\x00/"), record(16, "/data\x00/d"),
		record(17, "/proc"), record(18, "\x01\x00\x00\x00"), record(19, "e1"),
		record(20, "\x09\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"),
		record(13, "\x06\x00\x00\x00\x07\x00\x00\x00application/wasm\x00sha256:0a"), record(13, "\x08\x00\x00\x00\x00\x00\x00\x00\x00"),
	)
}

func decode(t *testing.T, program, input string) string {
	cmd := exec.Command(program, "print")
	cmd.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, _ := cmd.Output()
	require.Empty(t, stderr.String())
	return string(out)
}

func TestStageDecode(t *testing.T) {
	program := build(t, "stage.c", "testdata/stage.c")
	require.Equal(t, `id=c1
pod=p1
ns=k8s.io
exec=e1
arg=/hello.wasm
arg=
arg=-x
env=PATH=/bin
env=E=
path=/app/hello.wasm
func=run
name=hello
cwd=/work
option=opt-level=2
level=debug
kind=2
memory=2147483648
cpu=1500
preopen=/:/
preopen=/data:/d
hidden=/proc
flags=1
layer=6,7,application/wasm,sha256:0a
layer=8,0,,
rlimit=9,1073741824,18446744073709551615
`, decode(t, program, sample()))

	require.Contains(t, decode(t, program, whole(record(13, "\x00\x00\x00\x00\x06\x00\x00\x00\x00sha256:0a"), record(6, "/a"))), "layer=0,6,,sha256:0a\n")

	ok := sample()
	for name, c := range map[string]struct{ input, want string }{
		"empty":            {"", "no magic"},
		"other magic":      {"W" + ok[1:], "no magic"},
		"other version":    {ok[:8] + "\x02" + ok[9:], "unknown version"},
		"longer":           {ok + "\x00", "wrong length"},
		"shorter":          {ok[:len(ok)-4], "wrong length"},
		"cut record":       {whole([]byte("1234")), "cut record"},
		"overrun":          {whole([]byte("\x01\x00\x00\x00\xf0\x00\x00\x00abc\x00")), "record overruns"},
		"huge":             {whole([]byte("\x01\x00\x00\x00\xff\xff\xff\xffabc\x00")), "record overruns"},
		"no terminator":    {whole([]byte("\x01\x00\x00\x00\x03\x00\x00\x00abcd")), "record overruns"},
		"unknown tag":      {whole(record(21, "x")), "unknown tag"},
		"tag 0":            {whole(record(0, "x")), "unknown tag"},
		"NUL in a string":  {whole(record(4, "a\x00b")), "NUL within a string"},
		"kind too long":    {whole(record(12, "12345")), "kind of the wrong length"},
		"odd flags":        {whole(record(18, "\x04\x00\x00\x00")), "unknown flags"},
		"limit too short":  {whole(record(14, "1234567")), "limit of the wrong length"},
		"short rlimit":     {whole(record(20, "1234")), "rlimit of the wrong length"},
		"short layer":      {whole(record(13, "\x06\x00\x00\x00\x07\x00\x00")), "layer of the wrong length"},
		"half a layer":     {whole(record(13, "\x06\x00\x00\x00\x00\x00\x00\x00a/b")), "layer without type and digest"},
		"layer on stdin":   {whole(record(13, "\x00\x00\x00\x00\x00\x00\x00\x00\x00")), "layer without descriptor"},
		"no path for it":   {whole(record(6, "/a"), record(6, ""), record(13, "\x00\x00\x00\x00\x00\x00\x00\x00\x00")), "layer without descriptor"},
		"file and layer":   {whole(record(6, "/a"), record(13, "\x06\x00\x00\x00\x00\x00\x00\x00\x00"), record(13, "\x00\x00\x00\x00\x00\x00\x00\x00\x00")), "layer without descriptor"},
		"layer on stderr":  {whole(record(13, "\x02\x00\x00\x00\x00\x00\x00\x00\x00")), "layer without descriptor"},
		"artifact far off": {whole(record(13, "\x06\x00\x00\x00\x00\x00\x00\x01\x00")), "layer without descriptor"},
		"half a preopen":   {whole(record(16, "/data")), "preopen without two names"},
		"too much preopen": {whole(record(16, "/\x00/\x00/")), "preopen without two names"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, "error: "+c.want+"\n", decode(t, program, c.input))
		})
	}
}

// The bytes come from our own daemon; still nothing in them may crash a
// runner or make it read what is not there.
func TestStageDecodeHostile(t *testing.T) {
	program := build(t, "stage.c", "testdata/stage.c")
	cmd := exec.Command(program, "fuzz", "200000")
	cmd.Stdin = strings.NewReader(sample())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var accepted, refused int
	_, err = fmt.Sscanf(string(out), "accepted %d refused %d", &accepted, &refused)
	require.NoError(t, err)
	require.Positive(t, accepted)
	require.Positive(t, refused)
}

// guestCorpus has modules and components in it.
func guestCorpus(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"hello.wasm", "import.wasm", "files.wasm", "component-hello.wasm", "component-err.wasm"} {
		code, err := guests.Read(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), code, 0o600))
	}
	return dir
}

// The corpus of the context's decoder is that of the fuzzer in Go, whose test
// compares the decoders. The reader of imports and exports is wasmtime's.
func TestLibFuzzer(t *testing.T) {
	if _, err := exec.LookPath("clang"); err != nil {
		t.Skip("clang is not installed: the C side is not fuzzed by libFuzzer")
	}
	for name, fuzzed := range map[string]struct {
		sources []string
		corpus  string
	}{
		"stage":      {[]string{"stage.c", "testdata/fuzz_stage.c"}, "testdata/corpus"},
		"descriptor": {[]string{"descriptor.c", "testdata/fuzz_descriptor.c"}, "testdata/corpus"},
		"items":      {[]string{"../engines/wasmtime/items.c", "../engines/wasmtime/testdata/fuzz_items.c"}, guestCorpus(t)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{
				"-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-I../include",
				"-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-o", dir + "/fuzz",
			}
			out, err := exec.Command("clang", append(args, fuzzed.sources...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.NoError(t, os.Mkdir(dir+"/new", 0o700))
			runs := cmp.Or(os.Getenv("WASMSHIM_FUZZ_RUNS"), "50000")
			cmd := exec.Command(dir+"/fuzz", "-runs="+runs, "-seed=1", "-max_len=4096", "-artifact_prefix="+dir+"/", dir+"/new", fuzzed.corpus)
			out, err = cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "Done "+runs+" runs")
		})
	}
}

// What wasmtime's engine reads of a module or a component before it compiles it.
func TestItems(t *testing.T) {
	program := build(t, "../engines/wasmtime/items.c", "../engines/wasmtime/testdata/items.c")
	items := func(bytes string) string {
		cmd := exec.Command(program)
		cmd.Stdin = strings.NewReader(bytes)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	module := "\x00asm\x01\x00\x00\x00"
	imports := "\x06" + // six
		"\x03env\x01f\x00\x00" +
		"\x03env\x01t\x01\x70\x01\x01\x80\x01" + // a table with a maximum
		"\x03env\x01m\x02\x0b\x01\x02\x00" + // a shared memory with a page size
		"\x03env\x01g\x03\x63\x00\x01" + // a global of a reference type
		"\x03env\x01e\x04\x00\x00" + // a tag
		"\x00\x00\x00\x00"
	require.Equal(t, "import 0 env f\nimport 1 env t\nimport 2 env m shared\nimport 3 env g\nimport 4 env e\nimport 0  \n"+
		"export 2  memory\nunderstood\n", items(module+"\x02"+string(rune(len(imports)))+imports+"\x07\x0a\x01\x06memory\x02\x00"+"\x0a\x01\x00"))

	component := "\x00asm\x0d\x00\x01\x00"
	require.Equal(t, "import 5  a:b/c\nimport 3  r\nexport 1  run\nunderstood\n",
		items(component+"\x0a\x0f\x02\x00\x05a:b/c\x05\x00\x01\x01r\x03\x01"+"\x0b\x0b\x01\x00\x03run\x01\x00\x01\x01\x00"))

	for _, name := range []string{"hello.wasm", "component-hello.wasm", "go.wasm"} {
		code, err := guests.Read(name)
		require.NoError(t, err)
		require.Contains(t, items(string(code)), "\nunderstood\n")
	}
	for _, bad := range []string{
		"", "\x00asm", "\x00asm\x02\x00\x00\x00", module + "\x02", module + "\x02\x05\x01", module + "\x02\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
		module + "\x02\x02\x01\xff", module + "\x02\x02\x00\x00", module + "\x02\x05\x01\x00\x00\x07\x00", component + "\x0a\x04\x01\x02\x00\x05",
	} {
		require.Contains(t, items(bad), "not understood\n", "%q", bad)
	}
}

func TestDescriptorIntake(t *testing.T) {
	program := build(t, "descriptor.c", "testdata/descriptor.c")
	out, err := exec.Command(program).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// An engine of an older minor version has a shorter descriptor: what is missing
// counts as zero. 1.0 is the oldest, so the library is made one for which the
// last member came later.
func TestOlderDescriptor(t *testing.T) {
	text, err := os.ReadFile("descriptor.c")
	require.NoError(t, err)
	older := strings.Replace(string(text), "ENGINE_SIZE_1_0 = 128", "ENGINE_SIZE_1_0 = 120", 1)
	require.NotEqual(t, string(text), older)
	main := `
#include <stdlib.h>
static int32_t run(wasm_shim_context *c, int32_t *e, void *u) { (void)c; (void)u; *e = 0; return 0; }
int main(void) {
	wasm_shim_engine now = {WASM_SHIM_ENGINE_HEAD, .kinds = 1, .name = "old", .run_wasi = run}, copy;
	now.size = 120; // without compile
	void *old = malloc(now.size);
	memcpy(old, &now, now.size);
	memset(&copy, 0xff, sizeof(copy));
	char msg[256] = "";
	int result = wasmshim_engine_read(old, &copy, msg, sizeof(msg));
	printf("%d %s %s %d", result, msg, copy.name, copy.compile == NULL);
	free(old);
	return 0;
}
`
	source := filepath.Join(t.TempDir(), "older.c")
	require.NoError(t, os.WriteFile(source, []byte(strings.Replace(older, `"cabi.h"`, `"../cabi/cabi.h"`, 1)+main), 0o600))
	out, err := exec.Command(build(t, source)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "0  old 1", string(out))
}

// The corpus begins with what the tests above are about.
func TestCorpus(t *testing.T) {
	for name, want := range map[string]string{
		"every-tag": sample(), "empty": whole(), "one": whole(record(4, "a")), "cut": sample()[:60],
		"layer": whole(record(13, "\x06\x00\x00\x00\x07\x00\x00\x00a/b\x00sha256:0a")), "unknown": whole(record(99, "x")),
		"file": whole(record(6, "/a"), record(13, "\x00\x00\x00\x00\x06\x00\x00\x00\x00sha256:0a")),
	} {
		if *update {
			require.NoError(t, os.WriteFile("testdata/corpus/"+name, []byte(want), 0o600))
		}
		got, err := os.ReadFile("testdata/corpus/" + name)
		require.NoError(t, err)
		require.Equal(t, want, string(got), "go test ./cabi -update")
	}
}

// AppArmor allows to read what was inherited, and not to ask for its size.
func TestLayersWithoutTheirSize(t *testing.T) {
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(full, []byte("some code"), 0o600))
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	cmd := exec.Command(build(t, "io.c", "testdata/layers.c"), full, empty)
	cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0") // nothing is ever given back
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "some code|some code\n|\n", string(out))
}
