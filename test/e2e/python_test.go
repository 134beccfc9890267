// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// Python's own library finds the network as it is.
func TestNetworkPython(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "has no network for guests")
	files := smoke.Files(t)
	files["app.wasm"] = harness.File{Data: pythonGuest(t, "python", "wit", "app")}
	files["etc/hosts"] = harness.File{Data: []byte("127.0.0.1 server\n")}
	image := tt.Image("python", files, ocispec.ImageConfig{})
	n := newNetwork(tt)
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), harness.Slow(10*time.Minute))
	t.Cleanup(cancel)
	tt.Ctx = ctx
	n.serve("127.0.0.1:80")
	for engine, want := range map[string]string{
		"network = 'outbound'":                      `^127\.0\.0\.1:80 got from python\n$`,
		"network = 'outbound'\nconnect-ports = 443": `^PermissionError\n$`,
		"network = 'none'":                          `^gaierror\n$`,
	} {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/app.wasm", "server", "80"}, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body(slowly + engine)})
		require.Zero(t, result.Code, "%+v", result)
		require.Regexp(t, regexp.MustCompile(want), result.Stdout, engine)
	}
}
