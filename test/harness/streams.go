// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// Streams are a client's ends of a process's FIFOs.
type Streams struct {
	cio.Config     // their names, as a shim is told
	Stdin          io.WriteCloser
	Stdout, Stderr *Buffer

	fifos *cio.FIFOSet // nil if there are none
	io    *cio.DirectIO
	ended sync.WaitGroup // the copying of Stdout and Stderr
}

// Streams makes FIFOs for a process, and reads its output.
func (p *Place) Streams(id string, stdin, terminal bool) (*Streams, error) {
	fifos, err := cio.NewFIFOSetInDir(filepath.Join(p.Dir, "fifo"), id, terminal)
	if err != nil {
		return nil, err
	}
	if !stdin {
		fifos.Stdin = ""
	}
	if terminal {
		fifos.Stderr = ""
	}
	s := &Streams{Config: fifos.Config, Stdout: &Buffer{}, Stderr: &Buffer{}, fifos: fifos}
	return s, s.Attach()
}

// Attach opens the client's ends, also again after Detach.
func (s *Streams) Attach() error {
	ends, err := cio.NewDirectIO(context.Background(), s.fifos)
	if err != nil {
		return err
	}
	s.io, s.Stdin = ends, ends.Stdin
	for from, to := range map[io.ReadCloser]*Buffer{ends.Stdout: s.Stdout, ends.Stderr: s.Stderr} {
		if from != nil {
			s.ended.Go(func() { _, _ = io.Copy(to, from) })
		}
	}
	return nil
}

// Detach closes the client's ends, as one that goes away does. The FIFOs stay.
func (s *Streams) Detach() {
	s.io.Cancel() // ends what is still to be opened
	for _, end := range []io.Closer{s.io.Stdin, s.io.Stdout, s.io.Stderr} {
		if end != nil {
			end.Close()
		}
	}
	s.ended.Wait()
}

// Ended waits until the output has ended.
func (s *Streams) Ended(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.ended.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("the output has not ended")
	}
}

// Close detaches and removes the FIFOs.
func (s *Streams) Close() error {
	if s.fifos == nil {
		return nil
	}
	s.Detach()
	return s.fifos.Close()
}
