// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"fmt"
	"net"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Version is containerd's own, like "v2.4.2".
func (c *Client) Version(ctx context.Context) (string, error) {
	resp, err := versionapi.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", errgrpc.ToNative(err))
	}
	return resp.Version, nil
}

// Plugin is a part of containerd's.
type Plugin struct {
	ID      string
	Failure string // why it does not work; empty if it does
	Exports map[string]string
}

// Plugins are those of one type, like "io.containerd.snapshotter.v1".
func (c *Client) Plugins(ctx context.Context, kind string) ([]Plugin, error) {
	resp, err := introspectionapi.NewIntrospectionClient(c.conn).Plugins(c.In(ctx),
		&introspectionapi.PluginsRequest{Filters: []string{"type==" + kind}})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its plugins: %w", errgrpc.ToNative(err))
	}
	var all []Plugin
	for _, p := range resp.Plugins {
		all = append(all, Plugin{ID: p.ID, Failure: p.InitErr.GetMessage(), Exports: p.Exports})
	}
	return all, nil
}

// Pid is the process that listens on containerd's socket; 0 if it cannot be seen from
// here.
func (c *Client) Pid(ctx context.Context) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", c.Address, err)
	}
	return int(peer.Pid), nil
}
