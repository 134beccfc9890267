// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/schedcore"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
	"github.com/libwasmshim/libwasmshim/shim/internal/sandbox"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// start answers containerd and, unless the container joins a daemon that runs already,
// goes on as the daemon.
//
// The caller is a child that the process that containerd started forked off
// before Go ran: that process prints what is written to the result and exits.
func start(e Engine, c invocation, s Start) int {
	result := os.NewFile(uintptr(s.Result), "result")
	took := steps.New()
	if err := checkKernel(); err != nil {
		return e.refuse(result, err)
	}
	config, err := readConfig(c.bundle)
	if err != nil {
		return e.refuse(result, err)
	}
	p, req, out, err := bind(e, c, s.Input, config, took)
	if err != nil {
		return e.refuse(result, err)
	}
	// From here on containerd may connect: the socket listens.
	if err := reply(result, 0, out); err != nil {
		p.Close()
		return 1
	}
	if p.daemon == nil {
		return 0
	}
	took.Done("answer")
	return serve(e, c, req, p, config, took)
}

// goOn is the daemon whose start was answered. What goes wrong from here on, containerd
// learns by its first call.
func goOn(e Engine, c invocation, err error, s Start) int {
	took := steps.New()
	l, lerr := adopt(s.Listener)
	if lerr != nil {
		return 1
	}
	if err != nil {
		l.Close()
		return 1
	}
	config, err := readConfig(c.bundle)
	if err != nil {
		config = nil // create meets it again, and says so
	}
	req := parseRequest(s.Input, e, c)
	took.Done("parameters")
	return serve(e, c, req, place{daemon: l}, config, took)
}

func bind(e Engine, c invocation, begun, config []byte, took *steps.Steps) (p place, req request, _ []byte, retErr error) {
	rest, err := io.ReadAll(io.LimitReader(os.Stdin, maxInput))
	if err != nil {
		return p, req, nil, fmt.Errorf("read bootstrap parameters from standard input: %w", err)
	}
	if err := nullStdin(); err != nil {
		return p, req, nil, err
	}
	req = parseRequest(append(begun, rest...), e, c)
	took.Done("parameters")
	group, err := groupOf(c, config)
	if err != nil {
		return p, req, nil, err
	}
	path, err := socketPath(req.socketDir, e.Runtime(), c.address, c.namespace, group)
	if err != nil {
		return p, req, nil, err
	}
	if sharesDaemon(c, req, group) {
		p, err = share(e, c, req, path)
	} else {
		p.daemon, err = listen(path)
	}
	if err != nil {
		return p, req, nil, err
	}
	took.Done("bind")
	defer func() {
		if retErr != nil {
			p.Close()
		}
	}()
	if err := os.WriteFile(filepath.Join(c.bundle, addressFile), []byte(scheme+path), 0o600); err != nil {
		return p, req, nil, fmt.Errorf("write address: %w", err)
	}
	if p.daemon != nil {
		if err := takePlace(req); err != nil {
			return p, req, nil, err
		}
	}
	out, err := req.dialect.answer(scheme + path)
	return p, req, out, err
}

// readConfig reads a container's config.json. A sandbox has none, or one that says nothing.
func readConfig(bundle string) ([]byte, error) {
	if sandbox.IsBundle(bundle) {
		return nil, nil
	}
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read the bundle's config.json: %w", err)
	}
	return b, nil
}

// groupOf finds the name of the daemon's group in the text of a config.json; a
// container without one is its own group, as a sandbox is.
func groupOf(c invocation, config []byte) (string, error) {
	if sandbox.IsBundle(c.bundle) {
		return c.id, nil
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(config, &spec); err != nil {
		return "", fmt.Errorf("parse %s: %w", filepath.Join(c.bundle, "config.json"), err)
	}
	return task.GroupOf(c.id, spec.Annotations), nil
}

// takePlace gives the daemon its place on the machine: scheduling domain, cgroup
// and a worse OOM score than containerd's.
func takePlace(req request) error {
	if os.Getenv("SCHED_CORE") != "" {
		if err := schedcore.Create(schedcore.ProcessGroup); err != nil {
			return fmt.Errorf("enable core scheduling: %w", err)
		}
	}
	if cgroup := req.options.ShimCgroup; cgroup != "" {
		if err := joinCgroup(cgroup); err != nil {
			return fmt.Errorf("join ShimCgroup %s: %w", cgroup, err)
		}
	}
	return worsenOOMScore()
}

// joinCgroup moves this process into an existing cgroup, in every hierarchy
// where it exists.
func joinCgroup(path string) error {
	if cgroups.IsCgroup2UnifiedMode() {
		return cgroups.WriteCgroupProc(filepath.Join("/sys/fs/cgroup", path), os.Getpid())
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return err
	}
	joined := false
	for _, m := range mounts {
		dir := filepath.Join(m.Mountpoint, path)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := cgroups.WriteCgroupProc(dir, os.Getpid()); err != nil {
			return err
		}
		joined = true
	}
	if !joined {
		return os.ErrNotExist
	}
	return nil
}

// worsenOOMScore makes the kernel kill the shim before containerd, whose score
// this process inherited.
func worsenOOMScore() error {
	const file = "/proc/self/oom_score_adj"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("parse %s: %w", file, err)
	}
	err = os.WriteFile(file, []byte(strconv.Itoa(min(score+1, 1000))), 0)
	if errors.Is(err, os.ErrPermission) && rootless.Is() { // as runc's shim has it
		return nil
	}
	return err
}

func nullStdin() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer unix.Close(null)
	return unix.Dup2(null, 0)
}

// reply sends the exit code of the waiting process and what it prints.
func reply(result *os.File, code byte, text []byte) error {
	_, err := result.Write(append([]byte{code}, text...))
	return errors.Join(err, result.Close())
}

// refuse tells containerd why there is no daemon.
func (e Engine) refuse(result *os.File, err error) int {
	_ = reply(result, 1, []byte(e.Runtime()+": "+err.Error()+"\n"))
	return 1
}
