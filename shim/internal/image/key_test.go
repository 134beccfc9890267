// SPDX-License-Identifier: Apache-2.0

package image

import (
	"debug/elf"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// on makes this machine, and this binary, another one.
func on(t *testing.T, m machineKey, err error) {
	was := machine
	machine = func() (machineKey, error) { return m, err }
	t.Cleanup(func() { machine = was })
}

// A key has everything in it that an artifact depends on, and nothing else: what
// is not in it would lead to wrong code, what is too much to compiling again.
func TestKey(t *testing.T) {
	engine := Engine{Name: "engine", CacheKey: "1.0", Kinds: entrypoint.Module, Compiles: true}
	of := func(m machineKey, e Engine, options ...string) string {
		on(t, m, nil)
		key, err := e.Key(options)
		require.NoError(t, err)
		return key
	}
	here := machineKey{build: "id", features: "sse avx"}
	base := of(here, engine, "a=1", "b=2")
	require.Equal(t, base, of(here, engine, "a=1", "b=2"))
	keys := map[string]string{base: "base"}
	for what, key := range map[string]string{
		"build":           of(machineKey{"other", "sse avx"}, engine, "a=1", "b=2"),
		"processor":       of(machineKey{"id", "sse"}, engine, "a=1", "b=2"),
		"build+processor": of(machineKey{"idsse", " avx"}, engine, "a=1", "b=2"),
		"name":            of(here, Engine{Name: "other", CacheKey: "1.0"}, "a=1", "b=2"),
		"cache key":       of(here, Engine{Name: "engine", CacheKey: "1.1"}, "a=1", "b=2"),
		"no cache key":    of(here, Engine{Name: "engine"}, "a=1", "b=2"),
		"name+cache key":  of(here, Engine{Name: "engine1", CacheKey: ".0"}, "a=1", "b=2"),
		"cache key+name":  of(here, Engine{Name: "1.0", CacheKey: "engine"}, "a=1", "b=2"),
		"option":          of(here, engine, "a=1", "b=3"),
		"no option":       of(here, engine),
		"one option":      of(here, engine, "a=1"),
		"another option":  of(here, engine, "a=1", "b=2", "c"),
		"empty option":    of(here, engine, "a=1", "b=2", ""),
		"joined options":  of(here, engine, "a=1b=2"),
		"other order":     of(here, engine, "b=2", "a=1"),
		"as cache key":    of(here, Engine{Name: "engine"}, "1.0", "a=1", "b=2"),
	} {
		require.Empty(t, keys[key], "%s is the same as %s", what, keys[key])
		keys[key] = what
		require.Len(t, key, 32)
	}

	other := engine
	other.Kinds, other.LayerTypes, other.Compiles = entrypoint.Component, []string{"x"}, false
	require.Equal(t, base, of(here, other, "a=1", "b=2"), "which code the engine gets is not in it")

	on(t, machineKey{}, errNoBuildID)
	_, err := engine.Key(nil)
	require.ErrorIs(t, err, errNoBuildID)
}

// The artifact of a layer belongs to all layers of the guest, in their order and
// with their types: an engine sees them all.
func TestArtifactID(t *testing.T) {
	layers := func(of ...string) (list []WorkLayer) {
		for _, l := range of {
			list = append(list, WorkLayer{Digest: digest.FromString(l)})
		}
		return list
	}
	typed := layers("a", "b")
	typed[1].MediaType = own
	ids := map[string]string{}
	for what, id := range map[string]string{
		"base":       artifactID("key", layers("a", "b"), 0),
		"index":      artifactID("key", layers("a", "b"), 1),
		"key":        artifactID("other", layers("a", "b"), 0),
		"fewer":      artifactID("key", layers("a"), 0),
		"more":       artifactID("key", layers("a", "b", "c"), 0),
		"twice":      artifactID("key", layers("a", "b", "b"), 0),
		"order":      artifactID("key", layers("b", "a"), 0),
		"other last": artifactID("key", layers("a", "c"), 0),
		"type":       artifactID("key", typed, 0),
	} {
		require.Empty(t, ids[id], "%s is the same as %s", what, ids[id])
		ids[id] = what
	}
	with := layers("a", "b")
	with[0].Holder, with[1].Blob = "sha256:0", stamp{Size: 1}
	require.Equal(t, artifactID("key", layers("a", "b"), 0), artifactID("key", with, 0))
}

// Lists that differ have different names, wherever their parts begin and end.
func TestSum(t *testing.T) {
	sums := map[string][]string{}
	for _, list := range [][]string{
		nil,
		{""},
		{"", ""},
		{"ab"},
		{"a", "b"},
		{"", "ab"},
		{"ab", ""},
		{"b", "a"},
		{"a", "", "b"},
		{"1:a"},
		{"1", ":a"},
		{"3:1:a"},
		{"a1:b"},
		{"0:"},
		{"0:", ""},
		{"11", "1"},
		{"1", "11"},
		{"\x00"},
		{"\x00", ""},
	} {
		sum := sum(list...)
		require.Len(t, sum, 32)
		require.NotContains(t, sums, sum, "%q and %q", list, sums[sum])
		sums[sum] = list
	}
	require.Equal(t, sum("a", "b"), sum([]string{"a", "b"}...))
}

func TestMachine(t *testing.T) {
	m, err := machine()
	require.NoError(t, err)
	require.Regexp(t, "^[0-9a-f]{8,}$", m.build)
	flags := strings.Fields(m.features)
	require.NotEmpty(t, flags)
	require.True(t, slices.IsSorted(flags), m.features)
	again, err := processorFeatures()
	require.NoError(t, err)
	require.Equal(t, m.features, again)
}

func TestBuildID(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	_, err := buildID(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = buildID(write("text", []byte("just text, of more bytes than a header of ELF has: it is long enough")))
	require.ErrorContains(t, err, "read own binary: bad magic number")

	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	bare := append([]byte{}, binary[:64]...) // no program, no sections
	clear(bare[32:48])
	clear(bare[56:64])
	_, err = buildID(write("bare", bare))
	require.ErrorIs(t, err, errNoBuildID)

	id, err := buildID("/proc/self/exe")
	require.NoError(t, err, "Go's linker leaves a build id in every binary since 1.24")
	f, err := elf.Open("/proc/self/exe")
	require.NoError(t, err)
	defer f.Close()
	at := f.Section(".note.gnu.build-id").Offset
	changed := func(offset uint64) string {
		other := append([]byte{}, binary...)
		other[at+offset]++
		return write("changed", other)
	}
	first, err := hex.DecodeString(id[:2])
	require.NoError(t, err)
	other, err := buildID(changed(16))
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString([]byte{first[0] + 1})+id[2:], other)
	_, err = buildID(changed(8))
	require.ErrorIs(t, err, errNoBuildID, "a note of another type")
}
