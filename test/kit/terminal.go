// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// terminals has a guest say which of its streams are terminals, for each of a
// few ways in which a container may have them. The binary's own command runs it:
// what matters are the engine and its descriptors.
func terminals(guest string) func(context.Context, *suite) error {
	return func(ctx context.Context, s *suite) error {
		code, err := read(guest)
		if err != nil {
			return err
		}
		path := filepath.Join(s.dir, guest)
		if err := os.WriteFile(path, code, 0o600); err != nil {
			return err
		}
		for _, streams := range []struct{ in, out, err, want string }{
			{"terminal", "terminal", "terminal", "0 1 2"},
			{"terminal", "file", "pipe", "0 - -"},
			{"pipe", "terminal", "null", "- 1 -"},
			{"null", "pipe", "terminal", "- - 2"},
			{"null", "file", "null", "- - -"},
			{"file", "pipe", "file", "- - -"},
		} {
			out, err := onStreams(ctx, s, path, streams.in, streams.out, streams.err)
			if err != nil {
				return err
			}
			if want := "terminals: " + streams.want; strings.TrimSpace(out) != want {
				return fmt.Errorf("input is a %s, output a %s, errors a %s; the guest says %q, want %q", streams.in, streams.out, streams.err, out, want)
			}
		}
		return nil
	}
}

// onStreams runs a guest on streams of these kinds and returns its output.
func onStreams(ctx context.Context, s *suite, path string, kinds ...string) (_ string, retErr error) {
	master, slavePath, err := console.NewPty()
	if err != nil {
		return "", fmt.Errorf("open a terminal: %w", err)
	}
	defer master.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	defer w.Close()
	file, err := os.CreateTemp(s.dir, "stream")
	if err != nil {
		return "", err
	}
	defer file.Close()
	slave, err := os.OpenFile(slavePath, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer slave.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	ends := map[string]*os.File{"terminal": slave, "pipe": w, "file": file, "null": null}

	cmd := exec.CommandContext(ctx, s.binary, "run", path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[kinds[0]], ends[kinds[1]], ends[kinds[2]]
	if kinds[0] == "pipe" {
		cmd.Stdin = r
	}
	runErr := cmd.Run()
	slave.Close()
	w.Close()
	// Whatever the output was, all of it is there now.
	var said bytes.Buffer
	for _, stream := range []io.Reader{master, r, io.NewSectionReader(file, 0, 1<<20)} {
		if _, err := io.Copy(&said, stream); err != nil && !errors.Is(err, unix.EIO) { // of a terminal that nobody has open
			return "", err
		}
	}
	if runErr != nil && strings.Contains(said.String(), "runs only") {
		return "", no("refused: %s", firstLine(said.String()))
	}
	if runErr != nil {
		return "", fmt.Errorf("run: %w: %s", runErr, said.String())
	}
	return said.String(), nil
}
