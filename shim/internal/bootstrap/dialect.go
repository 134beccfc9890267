// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"fmt"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// dialect is how a containerd hears the answer to start.
type dialect int

const (
	plainAddress  dialect = iota // 1.6: the bare address
	jsonResult                   // 1.7 to 2.2: JSON, announced by MAX_SHIM_VERSION
	protobufV1                   // 2.3 and later: BootstrapParams in, BootstrapResult out
	maxVersionEnv = "MAX_SHIM_VERSION"
	// maxInput bounds what is read from containerd.
	maxInput = 10 << 20
)

// request is what start learns from containerd's standard input and
// environment, whatever the dialect.
type request struct {
	dialect   dialect
	socketDir string
	ttrpc     string // containerd's ttrpc socket, for events
	debug     bool
	options   options.Options
	given     []byte // the message of options, as it came
}

// parseRequest reads containerd's standard input. Wrong runtime options are not
// an error here: create meets them again, and its answers have codes.
func parseRequest(input []byte, e Engine, c invocation) request {
	r := request{ttrpc: os.Getenv("TTRPC_ADDRESS"), debug: c.debug}
	// An older daemon's Any may happen to parse as BootstrapParams, but not
	// with this call's id and namespace in it.
	var p bootapi.BootstrapParams
	if err := proto.Unmarshal(input, &p); err == nil && p.InstanceID == c.id && p.Namespace == c.namespace {
		r.dialect = protobufV1
		r.socketDir = p.GetSocketDir()
		if p.ContainerdTtrpcAddress != "" {
			r.ttrpc = p.ContainerdTtrpcAddress
		}
		r.debug = r.debug || p.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG
		for _, x := range p.Extensions {
			if options.Are(x.Value) {
				r.options, _ = options.Parse(x.Value, e.Options, e.Binary())
				r.given = x.Value.Value
			}
		}
		return r
	}
	if os.Getenv(maxVersionEnv) != "" {
		r.dialect = jsonResult
	}
	var a anypb.Any
	if err := proto.Unmarshal(input, &a); err == nil {
		r.options, _ = options.Parse(&a, e.Options, e.Binary())
		r.given = a.Value
	}
	return r
}

// answer is what start prints for containerd to connect to address.
func (d dialect) answer(address string) ([]byte, error) {
	switch d {
	case protobufV1:
		// An empty list of capabilities says that containerd may do every
		// mount transformation itself, and saves it from asking with -info.
		caps, err := anypb.New(&types.MountCapabilities{})
		if err != nil {
			return nil, fmt.Errorf("mount capabilities: %w", err)
		}
		return proto.Marshal(&bootapi.BootstrapResult{
			Version: 3, Address: address, Protocol: "ttrpc",
			Extensions: []*bootapi.Extension{{Value: caps}},
		})
	case jsonResult:
		return json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{2, address, "ttrpc"})
	}
	return []byte(address), nil
}
