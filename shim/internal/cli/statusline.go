// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/sirupsen/logrus"
)

// maxStatus is how long a status line is: one that is broken into two cannot be
// taken off the terminal.
const maxStatus = 79

// statusLine shows on a terminal what is being done, of which often nobody knows
// how long it takes. Log lines that are written to it take its place. It may be
// used by several goroutines.
type statusLine struct {
	terminal bool

	mu    sync.Mutex
	out   io.Writer // guarded by mu
	drawn bool      // guarded by mu
}

// newStatusLine makes a line on out, which shows only the log if that is no
// terminal.
func newStatusLine(out io.Writer) *statusLine {
	return &statusLine{terminal: isTerminal(out), out: out}
}

// set says what is done with something, and with how many bytes, if that is not 0.
func (s *statusLine) set(of, what string, size int64) {
	if !s.terminal {
		return
	}
	text := plain(of) + ": " + what
	if size > 0 {
		text += fmt.Sprintf(", %s", progress.Bytes(size))
	}
	if over := len(text) - maxStatus; over > 0 {
		text = text[over:] // names differ at their ends
	}
	s.draw(text)
}

// draw puts a text on the line.
func (s *statusLine) draw(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, "\r"+text+"\x1b[K")
	s.drawn = true
}

// clear takes the line off the terminal: call it before anything else is printed.
func (s *statusLine) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

// erase is clear, with mu held.
func (s *statusLine) erase() {
	if s.drawn {
		_, _ = io.WriteString(s.out, "\r\x1b[K")
		s.drawn = false
	}
}

// Write writes a log line.
func (s *statusLine) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	return s.out.Write(p)
}

// newLogger logs from a level on.
func newLogger(out io.Writer, level string) (*logrus.Entry, error) {
	l := logrus.New()
	l.SetOutput(out)
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, err
	}
	l.SetLevel(parsed)
	return logrus.NewEntry(l), nil
}
