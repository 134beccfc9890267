// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

func TestExitCode(t *testing.T) {
	cause := errors.New("cause")
	for _, tc := range []struct {
		err  error
		code int
		at   Stage
	}{
		{cause, 125, StageRun},
		{Fail(StageRun, cause), 125, StageRun},
		{Fail(StageLoad, cause), 126, StageLoad},
		{Fail(StageCompile, cause), 126, StageCompile},
		{fmt.Errorf("more: %w", Fail(StageTrap, cause)), 134, StageTrap},
		{ErrUnsupported, 126, StageLoad},
	} {
		code, at := exitCode(tc.err)
		require.Equal(t, tc.code, code)
		require.Equal(t, tc.at, at)
	}
	require.ErrorIs(t, Fail(StageTrap, cause), cause)
}

// What is not told has a value that an engine can use.
func TestContext(t *testing.T) {
	g := &guest{}
	first := g.context(&stage.Context{ID: "c", Path: "/app.wasm", Args: []string{"/app.wasm"}})
	require.Equal(t, "c", first.PodID)
	require.Empty(t, first.ExecID)
	require.Equal(t, "/", first.Cwd)
	require.Equal(t, Entrypoint{Func: "_start", Arg0: "/app.wasm"}, first.Entrypoint)
	require.Equal(t, []Preopen{{Host: "/", Guest: "/"}}, first.Preopens)
	further := g.context(&stage.Context{ID: "c", Pod: "p", ExecID: "e", Path: "/app.wasm", NoPreopens: true})
	require.Equal(t, "p", further.PodID)
	require.Equal(t, "e", further.ExecID)
	require.Empty(t, further.Preopens)
}

func TestVersion(t *testing.T) {
	require.NotEmpty(t, Version().Version)
	require.NotEmpty(t, Version().Revision)
}
