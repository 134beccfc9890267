// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// In a container of either kind both kinds of process run.
func TestExecKinds(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	for name, init := range map[string][]string{"native": {"/native", "sleep"}, "guest": {"/sleep.wasm"}} {
		c := tt.Run(harness.Config{Image: image, Args: init})
		require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
		for _, args := range [][]string{{"/native"}, {"/bin/echo", "hello"}, {"/hello.wasm"}, {"hello.wat"}, {"/component-hello.wasm"}, {"/go.wasm"}} {
			result := tt.ExecOnce(c, harness.ExecConfig{Args: args})
			require.Zero(t, result.Code, "%s %s %+v", name, args, result)
			require.Contains(t, result.Stdout, "hello", "%s %s %+v", name, args, result)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	c := tt.Run(harness.Config{Image: image, Args: []string{"/native", "sleep"}})
	e := tt.AddExec(c, harness.ExecConfig{Args: []string{"/bin/busybox", "stty", "size"}, Terminal: true})
	require.NoError(t, e.Resize(tt.Ctx, 111, 33))
	require.NoError(t, e.Start(tt.Ctx))
	result, err := e.Finish(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, "33 111\r\n", result.Stdout)
}
