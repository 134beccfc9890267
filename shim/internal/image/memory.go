// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
)

// runtimeDir is where what is only remembered lies, until the machine is
// restarted: locks, and what is known of code so that it need not be asked for or
// read again. All works without it, and takes longer.
var runtimeDir = rootless.StateDir()

// Dir is the directory of one containerd's namespace in runtimeDir. containerd
// takes no namespace that has a slash in it.
func Dir(address, namespace string) string {
	return filepath.Join(runtimeDir, filepath.Base(namespace)+dirSuffix(address))
}

// dirSuffix is what the directories of one containerd's namespaces have in common.
func dirSuffix(address string) string { return "-" + sum(filepath.Clean(address))[:16] }

// CountersOf are an engine's in a namespace, which lie beside what is remembered of it.
func CountersOf(address, namespace, engine string) metrics.File {
	return metrics.Of(Dir(address, namespace), engine)
}

// Counted is what engines have counted in all namespaces of a containerd.
func Counted(address string) (all []metrics.Set, _ error) {
	suffix := dirSuffix(address)
	dirs, err := filepath.Glob(filepath.Join(runtimeDir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		sets, err := metrics.Read(dir, strings.TrimSuffix(filepath.Base(dir), suffix))
		if err != nil {
			return nil, err
		}
		all = append(all, sets...)
	}
	return all, nil
}

// failure is why something is not to be tried again for a while.
type failure struct {
	Cause  string          `json:"cause"`
	Until  time.Time       `json:"until"`
	Limits compiler.Limits `json:"limits"` // within others it may not fail
}

func newFailure(why error, within time.Duration, limits compiler.Limits) *failure {
	return &failure{why.Error(), time.Now().Add(within), limits}
}

func (f *failure) holds(limits compiler.Limits) bool {
	return f != nil && time.Now().Before(f.Until) && f.Limits == limits
}

// memory is what is remembered of one namespace.
type memory struct{ dir string }

func memoryOf(address, namespace string) memory { return memory{Dir(address, namespace)} }

const (
	recordSuffix = ".json"

	// maxRecords is how many records a namespace keeps; the oldest go.
	maxRecords = 1024
)

// recall reads a record into v, and says whether there is one.
func (m memory) recall(name string, v any) bool {
	text, err := os.ReadFile(filepath.Join(m.dir, name+recordSuffix))
	return err == nil && json.Unmarshal(text, v) == nil
}

// remember writes a record, in one piece.
func (m memory) remember(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(m.dir, name+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(m.dir, name+recordSuffix))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return m.prune()
}

// note writes a record. That there is none costs time at a later start.
func (m memory) note(name string, v any, logger *log.Entry) {
	if err := m.remember(name, v); err != nil {
		logger.WithError(err).Debug("cannot write down what was found out; the next start finds it out again")
	}
}

// clear removes all records.
func (m memory) clear() error {
	names, err := filepath.Glob(filepath.Join(m.dir, "*"+recordSuffix))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prune removes the oldest records, and what writers left that were killed.
func (m memory) prune() error {
	type aged struct {
		name string
		at   time.Time
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	var all []aged
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		switch filepath.Ext(e.Name()) {
		case recordSuffix:
			all = append(all, aged{e.Name(), info.ModTime()})
		case ".new":
			if time.Since(info.ModTime()) > time.Minute {
				_ = os.Remove(filepath.Join(m.dir, e.Name()))
			}
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.at.Compare(b.at) })
	for ; len(all) > maxRecords; all = all[1:] {
		_ = os.Remove(filepath.Join(m.dir, all[0].name))
	}
	return nil
}

// Containers whose code is found by asking containerd have the question asked ahead,
// if others with their entrypoint had to ask lately. Entrypoints share a few files, so
// that they are never many.
const (
	askedPrefix = "asked-"
	askedFiles  = 64
	askedFor    = time.Hour
)

func (m memory) askedFile(entrypoint string) string {
	return filepath.Join(m.dir, askedPrefix+strconv.Itoa(int(crc32.ChecksumIEEE([]byte(entrypoint))%askedFiles)))
}

// asked notes that a container with an entrypoint had to ask.
func (m memory) asked(entrypoint string) {
	name := m.askedFile(entrypoint)
	now := time.Now()
	if info, err := os.Stat(name); err == nil {
		if now.Sub(info.ModTime()) > askedFor/60 {
			_ = os.Chtimes(name, now, now)
		}
		return
	}
	if os.MkdirAll(m.dir, 0o700) == nil {
		_ = os.WriteFile(name, nil, 0o600)
	}
}

// asksAhead says whether a container with an entrypoint is to ask ahead.
func (m memory) asksAhead(entrypoint string) bool {
	info, err := os.Stat(m.askedFile(entrypoint))
	return err == nil && time.Since(info.ModTime()) < askedFor
}
