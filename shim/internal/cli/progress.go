// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"golang.org/x/sys/unix"
)

const (
	// progressFrom is the amount of work that takes long enough for a bar, in bytes.
	progressFrom = 4 << 20
	// progressPeriod is how long a bar stays as it is.
	progressPeriod = 100 * time.Millisecond
)

// progressBar shows on a terminal how much of some work is done. It is for one
// goroutine; nil is a bar that shows nothing.
type progressBar struct {
	out   io.Writer
	drawn time.Time // zero if the bar is not on the terminal
}

// newProgressBar makes a bar on out, which shows nothing if that is no terminal.
func newProgressBar(out io.Writer) *progressBar {
	if !isTerminal(out) {
		return nil
	}
	return &progressBar{out: out}
}

// set draws the bar, if there is much to do and it was not drawn just now. done
// and total are bytes.
func (b *progressBar) set(done, total int64) {
	if b == nil || total <= progressFrom || time.Since(b.drawn) < progressPeriod {
		return
	}
	b.drawn = time.Now()
	_, _ = fmt.Fprintf(b.out, "\r%40r %s of %s\x1b[K", progress.Bar(float64(done)/float64(total)), progress.Bytes(done), progress.Bytes(total))
}

// clear takes the bar off the terminal: call it before anything else is printed.
func (b *progressBar) clear() {
	if b != nil && !b.drawn.IsZero() {
		_, _ = io.WriteString(b.out, "\r\x1b[K")
		b.drawn = time.Time{}
	}
}

// isTerminal says whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
