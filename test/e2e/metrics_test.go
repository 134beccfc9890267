// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// counted is what doctor --metrics prints of an engine in this namespace, without what all
// lines have in common.
func (t *cliTest) counted(engine string) map[string]float64 {
	t.Helper()
	own := `{namespace="` + t.Namespace + `",engine="` + engine + `"`
	numbers := map[string]float64{}
	for line := range strings.Lines(t.okay(t.shim, "doctor", "--metrics")) {
		name, rest, found := strings.Cut(line, own)
		if !found {
			continue
		}
		labels, value, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), "} ")
		number, err := strconv.ParseFloat(value, 64)
		require.NoError(t, err, line)
		numbers[strings.TrimPrefix(name, "libwasmshim_")+labels] = number
	}
	return numbers
}

// What only shims know is counted, whichever process it was in.
func TestMetrics(t *testing.T) {
	tt := newCLITest(t)
	const lookups, compilations, failed = "cache_lookups_total,result=", "compilations_total,result=", "guests_failed_total,reason="
	cachier := func(verb string) func() {
		image := tt.LayerImage(fresh(t))
		return func() {
			tt.out(harness.Config{Image: image, RuntimeOptions: body("compile_timeout = '700ms'\ncompile_memory = '64MiB'\n[engine]\ncompile = '" + verb + "'")})
		}
	}
	good, bad := cachier(""), cachier("fail")
	for _, step := range []struct {
		name, engine string
		do           func()
		more         map[string]float64
	}{
		{"new", "cachier", good, map[string]float64{lookups + `"miss"`: 1, compilations + `"compiled"`: 1, "cache_artifacts": 1}},
		{"again", "cachier", good, map[string]float64{lookups + `"hit"`: 1}},
		{"not to be compiled", "cachier", bad, map[string]float64{lookups + `"miss"`: 1, compilations + `"failed"`: 1}},
		{"nor later", "cachier", bad, map[string]float64{lookups + `"known_to_fail"`: 1}},
		{"none", "cachier", cachier("none"), map[string]float64{lookups + `"miss"`: 1, compilations + `"nothing"`: 1}},
		{"loops", "cachier", cachier("loop"), map[string]float64{lookups + `"miss"`: 1, compilations + `"too_long"`: 1}},
		{"memory", "cachier", cachier("memory"), map[string]float64{lookups + `"miss"`: 1, compilations + `"too_large"`: 1}},
		{"refused", "cachier", cachier("garbage"), map[string]float64{lookups + `"miss"`: 1, compilations + `"compiled"`: 1, "artifacts_refused_total": 1}},
		{"precompiled", "cachier", func() { tt.okay(tt.shim, "precompile", tt.LayerImage(fresh(t)).Name()) }, map[string]float64{compilations + `"compiled"`: 1, "cache_artifacts": 1}},
		{"no guest", "cachier", func() {
			_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: tt.shim, Image: tt.LayerImage(nil)})
			require.Error(t, err)
		}, map[string]float64{`creates_refused_total,code="InvalidArgument"`: 1}},
		{"trap", "wasmtime", func() { tt.Once(harness.Config{Image: smoke.Image(tt.T), Args: []string{"/trap.wasm"}}) }, map[string]float64{failed + `"trap"`: 1}},
		{"import", "wasmtime", func() { tt.Once(harness.Config{Image: smoke.Image(tt.T), Args: []string{"/import.wasm"}}) }, map[string]float64{failed + `"not_loaded"`: 1}},
	} {
		t.Run(step.name, func(t *testing.T) {
			before := tt.counted(step.engine)
			step.do()
			require.EventuallyWithT(t, func(c *assert.CollectT) { // what is refused is removed in the background
				now := tt.counted(step.engine)
				for key, number := range now {
					known := step.more[key] != 0
					if known || step.engine == "cachier" && strings.Contains(key, "total,") {
						assert.InDelta(c, before[key]+step.more[key], number, 0, key)
					}
				}
				for key := range step.more {
					assert.Contains(c, now, key)
				}
			}, 10*time.Second, 100*time.Millisecond)
		})
	}
	require.Positive(t, tt.counted("cachier")["compile_seconds_total"])
}
