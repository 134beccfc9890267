// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
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

func TestVersion(t *testing.T) {
	require.NotEmpty(t, Version().Version)
	require.NotEmpty(t, Version().Revision)
}
