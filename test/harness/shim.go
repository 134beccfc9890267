// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task2 "github.com/containerd/containerd/api/runtime/task/v2"
	task3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// Shim is a connection to a shim itself, past containerd, which catches many
// wrong calls before a shim sees them.
type Shim struct {
	task3.TTRPCTaskService
	V2      task2.TTRPCTaskService
	Address string // "unix:///…"
	client  *ttrpc.Client
}

// Close closes the connection.
func (s *Shim) Close() error { return s.client.Close() }

// Dial connects to the shim at an address as shims print it.
func Dial(address string) (*Shim, error) {
	path := strings.TrimPrefix(address, "unix://")
	conn, err := net.DialTimeout("unix", path, Slow(5*time.Second))
	if err != nil {
		return nil, err
	}
	c := ttrpc.NewClient(conn)
	return &Shim{TTRPCTaskService: task3.NewTTRPCTaskClient(c), V2: task2.NewTTRPCTaskClient(c), Address: address, client: c}, nil
}

// Shim connects to the shim of a container that containerd has made.
func (d *Daemon) Shim(id string) (*Shim, error) {
	var params struct {
		Address string `json:"address"`
	}
	if data, err := os.ReadFile(filepath.Join(d.Bundle(id), "bootstrap.json")); err == nil {
		if err := json.Unmarshal(data, &params); err != nil {
			return nil, err
		}
	} else if data, err := os.ReadFile(filepath.Join(d.Bundle(id), "address")); err == nil {
		params.Address = string(data)
	} else {
		return nil, err
	}
	return Dial(params.Address)
}

// Dialect is a way in which a containerd asks a shim to start.
type Dialect int

// The dialects, by the containerds that speak them.
const (
	Dialect23 Dialect = iota // 2.3 and later: protobuf in and out
	Dialect17                // 1.7 to 2.2: JSON out
	Dialect16                // 1.6: the bare address out
)

// ShimCommand prepares the shim binary as containerd runs it, with the bundle
// as its working directory.
func (p *Place) ShimCommand(ctx context.Context, binary, bundle string, dialect Dialect, action string) (*exec.Cmd, error) {
	id := filepath.Base(bundle)
	args := []string{"-namespace", p.Namespace, "-address", p.Address, "-publish-binary", "/bin/false", "-id", id}
	if action == "delete" {
		args = append(args, "-bundle", bundle)
	}
	cmd := exec.CommandContext(ctx, binary, append(args, action)...)
	cmd.Dir = bundle
	cmd.Env = append(p.Env(), "GOMAXPROCS=2", "TTRPC_ADDRESS="+p.Address+".ttrpc", "GRPC_ADDRESS="+p.Address, "NAMESPACE="+p.Namespace)
	if dialect != Dialect16 {
		cmd.Env = append(cmd.Env, "MAX_SHIM_VERSION=2")
	}
	if dialect == Dialect23 && action == "start" {
		params, err := proto.Marshal(&bootapi.BootstrapParams{
			InstanceID:             id,
			Namespace:              p.Namespace,
			LogLevel:               bootapi.LogLevel_LOG_LEVEL_INFO,
			ContainerdVersion:      string(p.Version),
			ContainerdGrpcAddress:  p.Address,
			ContainerdTtrpcAddress: p.Address + ".ttrpc",
			ContainerdBinary:       "/bin/false",
			SocketDir:              &p.SocketDir,
		})
		if err != nil {
			return nil, err
		}
		cmd.Stdin = bytes.NewReader(params)
	}
	return cmd, nil
}

// start runs the shim's start command in a bundle and connects to the shim.
func (p *Place) start(ctx context.Context, binary, bundle string, dialect Dialect, within []string) (*Shim, error) {
	cmd, err := p.ShimCommand(ctx, binary, bundle, dialect, "start")
	if err != nil {
		return nil, err
	}
	if len(within) > 0 {
		cmd.Path, cmd.Args = within[0], append(slices.Clone(within), cmd.Args...)
	}
	out, err := cmd.CombinedOutput() // as containerd does: stderr would spoil the answer
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bytes.TrimSpace(out), err)
	}
	address, err := parseAddress(out, dialect)
	if err != nil {
		return nil, fmt.Errorf("answer of start %q: %w", out, err)
	}
	return Dial(address)
}

func parseAddress(out []byte, dialect Dialect) (string, error) {
	switch dialect {
	case Dialect16:
		return string(out), nil
	case Dialect17:
		var params struct {
			Version           int
			Address, Protocol string
		}
		if err := json.Unmarshal(out, &params); err != nil {
			return "", err
		}
		if params.Version != 2 || params.Protocol != "ttrpc" {
			return "", errors.New("not version 2 over ttrpc")
		}
		return params.Address, nil
	default:
		var result bootapi.BootstrapResult
		if err := proto.Unmarshal(out, &result); err != nil {
			return "", err
		}
		if result.Version != 3 || result.Protocol != "ttrpc" {
			return "", errors.New("not version 3 over ttrpc")
		}
		return result.Address, nil
	}
}
