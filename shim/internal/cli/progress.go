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
// goroutine.
type progressBar struct {
	line *statusLine
	at   time.Time // when it was drawn
}

// newProgressBar makes a bar on out, which shows nothing if that is no terminal.
func newProgressBar(out io.Writer) *progressBar { return &progressBar{line: newStatusLine(out)} }

// set draws the bar, if there is much to do and it was not drawn just now. done
// and total are bytes.
func (b *progressBar) set(done, total int64) {
	if !b.line.terminal || total <= progressFrom || time.Since(b.at) < progressPeriod {
		return
	}
	b.at = time.Now()
	b.line.draw(fmt.Sprintf("%40r %s of %s", progress.Bar(float64(done)/float64(total)), progress.Bytes(done), progress.Bytes(total)))
}

// clear takes the bar off the terminal: call it before anything else is printed.
func (b *progressBar) clear() { b.line.clear() }

// isTerminal says whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
