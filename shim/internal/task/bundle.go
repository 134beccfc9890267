// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// Prepare does what can be done for the first container before containerd asks
// for it: while containerd connects, the other processor has nothing to do.
// id and config, the text of the bundle's config.json, are that container's.
func (s *Service) Prepare(id, bundle string, config []byte) {
	s.prepared.Lock()
	go func() {
		defer s.prepared.Unlock()
		spec := &specs.Spec{}
		if json.Unmarshal(config, spec) == nil {
			s.prepared.text, s.prepared.spec = config, spec
		}
		if spec.Process != nil && len(spec.Process.Args) > 0 {
			s.code.Expect(s.ctx, id, spec.Process.Args[0])
		}
		_, _ = s.exe.get(bundle) // create meets the error again, and reports it
	}()
}

// prepared is a spec that was parsed ahead, to be taken once.
type prepared struct {
	sync.Mutex
	text []byte      // guarded by Mutex
	spec *specs.Spec // guarded by Mutex
}

func (p *prepared) take(text []byte) *specs.Spec {
	p.Lock()
	defer p.Unlock()
	defer func() { p.text, p.spec = nil, nil }()
	if p.spec == nil || !bytes.Equal(text, p.text) {
		return nil
	}
	return p.spec
}

func (s *Service) readSpec(bundle string) (*specs.Spec, error) {
	if !filepath.IsAbs(bundle) {
		return nil, fmt.Errorf("bundle %q is not an absolute path: %w", bundle, errdefs.ErrInvalidArgument)
	}
	name := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	spec := s.prepared.take(text)
	if spec == nil {
		spec = &specs.Spec{}
		if err := json.Unmarshal(text, spec); err != nil {
			return nil, fmt.Errorf("parse %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
	}
	if err := container.Validate(spec); err != nil {
		return nil, err
	}
	return spec, validateStrings(spec.Process)
}

// validateStrings checks what a kernel would refuse or cut off.
func validateStrings(p *specs.Process) error {
	if len(p.Args) == 0 {
		return fmt.Errorf("process.args is empty; it must name what to run: %w", errdefs.ErrInvalidArgument)
	}
	for _, a := range p.Args {
		if strings.Contains(a, "\x00") {
			return fmt.Errorf("process.args has %q; an argument cannot hold a NUL byte: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	for _, kv := range p.Env {
		if strings.Contains(kv, "\x00") || strings.IndexByte(kv, '=') < 1 {
			return fmt.Errorf("process.env has %q; it must be NAME=value, without a NUL byte: %w", kv, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
