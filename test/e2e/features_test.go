// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// What -info says of a container's features is what runc says, field by field,
// but for what is runc's own and for checkpoints, which we do not have.
func TestFeaturesLikeRunc(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	runc, err := tt.LookPath("runc")
	require.NoError(t, err)
	text, err := exec.Command(runc, "features").Output()
	require.NoError(t, err)
	var want map[string]any
	require.NoError(t, json.Unmarshal(text, &want))

	shim, err := tt.ShimBinary(tt.Runtime)
	require.NoError(t, err)
	text, err = exec.Command(shim, "-info").Output()
	require.NoError(t, err)
	var info types.RuntimeInfo
	require.NoError(t, proto.Unmarshal(text, &info))
	var got map[string]any
	require.NoError(t, json.Unmarshal(info.Features.Value, &got))

	require.Contains(t, got, "annotations")
	annotations := want["annotations"].(map[string]any)
	maps.DeleteFunc(annotations, func(name string, _ any) bool { return strings.HasPrefix(name, "org.opencontainers.runc.") })
	if _, links := annotations["io.github.seccomp.libseccomp.version"]; links {
		annotations["io.github.seccomp.libseccomp.version"] = got["annotations"].(map[string]any)["io.github.seccomp.libseccomp.version"]
	}
	want["potentiallyUnsafeConfigAnnotations"] = slices.DeleteFunc(want["potentiallyUnsafeConfigAnnotations"].([]any), func(name any) bool {
		return name == "org.criu.config"
	})
	for field := range want {
		require.Equal(t, want[field], got[field], field)
	}
	require.Equal(t, want, got)
}
