// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// featuresURL is the name under which containerd knows OCI Features. Its value
// is JSON, as it is for every type that is not a protobuf message.
const featuresURL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info prints what this runtime can do. CRI learns from it about recursive
// read-only mounts, user namespaces and id-mapped mounts.
func info(e Engine, in io.Reader, out io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return fmt.Errorf("read runtime options from standard input: %w", err)
	}
	i := &types.RuntimeInfo{
		Name:    e.Runtime(),
		Version: &types.RuntimeVersion{Version: e.Version, Revision: e.Revision},
	}
	if len(input) > 0 {
		i.Options = &anypb.Any{}
		if err := proto.Unmarshal(input, i.Options); err != nil {
			return fmt.Errorf("standard input holds no protobuf Any with the runtime options: %w", err)
		}
	}
	features, err := json.Marshal(container.Features())
	if err != nil {
		return fmt.Errorf("encode features: %w", err)
	}
	i.Features = &anypb.Any{TypeUrl: featuresURL, Value: features}
	b, err := proto.Marshal(i)
	if err != nil {
		return fmt.Errorf("encode runtime info: %w", err)
	}
	_, err = out.Write(b)
	return err
}
