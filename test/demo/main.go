// SPDX-License-Identifier: Apache-2.0

// Demo starts a private containerd, makes an image from a Go program compiled
// to WebAssembly, runs it with ctr and stops everything that it started.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := demo(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...) }

func demo(ctx context.Context) (retErr error) {
	say("starting a private containerd %s", harness.Containerd24)
	d, err := harness.Start(ctx, harness.Containerd24)
	if err != nil {
		return err
	}
	defer func() {
		say("stopping everything")
		if err := d.Stop(); err != nil && retErr == nil {
			retErr = err
		}
	}()

	say("compiling test/demo/guest with GOOS=wasip1 GOARCH=wasm")
	program, err := compile(ctx, d)
	if err != nil {
		return err
	}
	say("making an image of it (%.1f MB)", float64(len(program))/1e6)
	image, err := d.Image(ctx, "demo", map[string]harness.File{
		"app.wasm": {Data: program},
		"etc/motd": {Data: []byte("no shell, no libc, no distribution.\n"), Mode: 0o644},
	}, ocispec.ImageConfig{
		Entrypoint: []string{"/app.wasm"},
		Cmd:        []string{"one", "two"},
		Env:        []string{"GREETING=good day"},
	})
	if err != nil {
		return err
	}

	ctr, err := d.LookPath("ctr")
	if err != nil {
		return err
	}
	args := []string{"run", "--rm", "--runtime", "io.containerd.wasmtime.v1", image.Name(), "demo"}
	say("ctr %s", strings.Join(args, " "))
	fmt.Fprintln(os.Stderr)
	// What keeps the daemon private is not shown: it would hide the command.
	private := []string{"--address", d.Address, "--namespace", d.Namespace, "run", "--fifo-dir", filepath.Join(d.Dir, "fifo")}
	cmd := exec.CommandContext(ctx, ctr, append(private, args[1:]...)...)
	cmd.Env = append(d.Env(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1") // of the host's cgroups
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return fmt.Errorf("ctr run: %w\nthe last of containerd's log:\n%s", err, d.LogTail(20))
	}
	return nil
}

func compile(ctx context.Context, d *harness.Daemon) ([]byte, error) {
	repo, err := harness.Repo()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(d.Dir, "app.wasm")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", out, "./test/demo/guest")
	cmd.Dir = repo
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the guest: %w\n%s", err, text)
	}
	return os.ReadFile(out)
}
