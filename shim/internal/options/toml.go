// SPDX-License-Identifier: Apache-2.0

package options

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// maxConfig bounds the size of a configuration file, in bytes.
const maxConfig = 1 << 20

func fromGeneric(g *runtimeoptions.Options, engine []Declaration, binary string) (Options, error) {
	if g.ConfigPath == "" {
		return parseTOML("runtime options", g.ConfigBody, engine, binary)
	}
	text, err := readConfig(g.ConfigPath)
	if err != nil {
		return Options{}, fmt.Errorf("runtime option ConfigPath: %w", err)
	}
	return parseTOML(g.ConfigPath, text, engine, binary)
}

// readConfig reads a regular file; a FIFO or a directory in its place must not
// make a create wait.
func readConfig(name string) ([]byte, error) {
	if !filepath.IsAbs(name) {
		return nil, invalid("%q is not an absolute path", name)
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("%s is not a regular file", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfig {
		return nil, invalid("%s has more than %d bytes", name, maxConfig)
	}
	return text, nil
}

// maxDaemonPods bounds what ends with one daemon.
const maxDaemonPods = 1000

// setters are the keys that a runtime's options may have, with what takes
// their values.
var setters = map[string]func(o *Options, v any, engine []Declaration) error{
	"SystemdCgroup": func(o *Options, v any, _ []Declaration) error { return setBool(&o.SystemdCgroup, v) },
	"NoPivotRoot":   func(o *Options, v any, _ []Declaration) error { return setBool(&o.NoPivotRoot, v) },
	"NoNewKeyring":  func(o *Options, v any, _ []Declaration) error { return setBool(&o.NoNewKeyring, v) },
	"Root": func(o *Options, v any, _ []Declaration) error {
		if err := set(&o.Root, v); err != nil {
			return err
		}
		return checkRoot(o.Root)
	},
	"ShimCgroup": func(o *Options, v any, _ []Declaration) error { return set(&o.ShimCgroup, v) },
	"IoUid":      func(o *Options, v any, _ []Declaration) error { return setID(&o.IoUID, v) },
	"IoGid":      func(o *Options, v any, _ []Declaration) error { return setID(&o.IoGID, v) },
	"daemon":     func(o *Options, v any, _ []Declaration) error { return setWord(&o.Daemon, v, Daemons) },
	"daemon_pods": func(o *Options, v any, _ []Declaration) error {
		n, ok := v.(int64)
		if !ok || n < 1 || n > maxDaemonPods {
			return invalid("found %s, accepted: a whole number from 1 to %d", show(v), maxDaemonPods)
		}
		o.DaemonPods = int(n)
		return nil
	},
	"log_level":  func(o *Options, v any, _ []Declaration) error { return setWord(&o.LogLevel, v, LogLevels) },
	"guest_proc": func(o *Options, v any, _ []Declaration) error { return setWord(&o.GuestProc, v, GuestProcs) },
	"compile_timeout": func(o *Options, v any, _ []Declaration) error {
		s, _ := v.(string)
		t, err := time.ParseDuration(s)
		if err != nil || t < 0 {
			return invalid("found %s, accepted: a duration like \"60s\", or \"0s\" to compile nothing ahead", show(v))
		}
		o.CompileTimeout = &t
		return nil
	},
	"compile_memory": func(o *Options, v any, _ []Declaration) error {
		s, _ := v.(string)
		n, ok := ParseCompileMemory(s)
		if !ok {
			return invalid("found %s, accepted: a size of 1MiB or more, like \"512MiB\"", show(v))
		}
		o.CompileMemory = n
		return nil
	},
	"compilers": func(o *Options, v any, _ []Declaration) error {
		n, ok := v.(int64)
		if !ok || n < 1 || n > math.MaxInt32 {
			return invalid("found %s, accepted: a whole number from 1 to %d", show(v), math.MaxInt32)
		}
		o.Compilers = int(n)
		return nil
	},
	"compile_cgroup": func(o *Options, v any, _ []Declaration) error {
		s, ok := v.(string)
		if !ok || !validCgroup(s) {
			return invalid("found %s, accepted: a cgroup's absolute path like \"/compilers\", or a systemd slice like \"compilers.slice\"", show(v))
		}
		o.CompileCgroup = s
		return nil
	},
	"allow_annotations": func(o *Options, v any, engine []Declaration) error {
		return o.setAllowed(v, engine)
	},
	"engine": func(o *Options, v any, engine []Declaration) error { return o.setEngine(v, engine) },
}

// validCgroup says whether a text is the absolute path of a cgroup, not the root
// of all, or the name of a systemd slice.
func validCgroup(s string) bool {
	if name, ok := strings.CutSuffix(s, ".slice"); ok && !strings.Contains(s, "/") {
		// A dash leads from a slice to one in it: a-b.slice is in a.slice.
		return name != "" && !slices.Contains(strings.Split(name, "-"), "")
	}
	return path.IsAbs(s) && path.Clean(s) == s && s != "/"
}

// ignored are keys of the generic options themselves: containerd hands on the
// whole table that they stand in.
var ignored = []string{"TypeUrl", "ConfigPath", "ConfigBody"}

// parseTOML reads options from TOML; what names the text in errors.
func parseTOML(what string, text []byte, engine []Declaration, binary string) (Options, error) {
	var table map[string]any
	if err := toml.Unmarshal(text, &table); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, column := at.Position()
			return Options{}, invalid("%s: line %d, column %d: %s", what, row, column, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return Options{}, invalid("%s: %v", what, err)
	}
	var o Options
	// In order, so that of two errors always the same one is told.
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if slices.Contains(ignored, key) {
			continue
		}
		if key == "BinaryName" {
			name, ok := table[key].(string)
			if !ok {
				return Options{}, invalid("%s: BinaryName: found %s, accepted: a string", what, show(table[key]))
			}
			if err := checkBinaryName(name, binary); err != nil {
				return Options{}, fmt.Errorf("%s: %w", what, err)
			}
			continue
		}
		take, ok := setters[key]
		if !ok {
			if whyRefused[key] != "" {
				if zero(table[key]) {
					continue
				}
				return Options{}, fmt.Errorf("%s: %w", what, refused(key))
			}
			return Options{}, invalid("%s: unknown key %q; accepted: %s", what, key, strings.Join(slices.Sorted(maps.Keys(setters)), ", "))
		}
		if err := take(&o, table[key], engine); err != nil {
			return Options{}, fmt.Errorf("%s: %s: %w", what, key, err)
		}
	}
	return o, nil
}

// zero says whether a value is what an option has that nobody set.
func zero(v any) bool { return v == "" || v == int64(0) || v == false }

func set[T bool | string](to *T, v any) error {
	t, ok := v.(T)
	if !ok {
		return invalid("found %s, accepted: a %T", show(v), *to)
	}
	*to = t
	return nil
}

// setBool takes "true" and "false", too: the runtime-class-manager writes every option
// as a text.
func setBool(to *bool, v any) error {
	switch v {
	case "true":
		v = true
	case "false":
		v = false
	}
	return set(to, v)
}

func setID(to *uint32, v any) error {
	n, ok := v.(int64)
	if !ok || n < 0 || n > math.MaxUint32 {
		return invalid("found %s, accepted: a number from 0 to %d", show(v), uint32(math.MaxUint32))
	}
	*to = uint32(n)
	return nil
}

func setWord(to *string, v any, words []string) error {
	s, ok := v.(string)
	if !ok || !slices.Contains(words, s) {
		return invalid("found %s, accepted: %s", show(v), strings.Join(words, ", "))
	}
	*to = s
	return nil
}

func (o *Options) setAllowed(v any, engine []Declaration) error {
	list, ok := v.([]any)
	if !ok {
		return invalid("found %s, accepted: a list of engine options' keys", show(v))
	}
	for _, v := range list {
		key, ok := v.(string)
		if !ok {
			return invalid("found %s in the list, accepted: engine options' keys", show(v))
		}
		if _, err := find(key, engine); err != nil {
			return err
		}
		o.AllowAnnotations = append(o.AllowAnnotations, key)
	}
	return nil
}

func (o *Options) setEngine(v any, engine []Declaration) error {
	table, ok := v.(map[string]any)
	if !ok {
		return invalid("found %s, accepted: a table, [engine]", show(v))
	}
	o.Engine = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		text, err := scalar(table[key])
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if o.Engine[key], err = Value(key, text, engine); err != nil {
			return err
		}
	}
	return nil
}

// scalar is a TOML value as text; a list's elements are joined by commas.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case []any:
		var all []string
		for _, e := range v {
			if _, nested := e.([]any); nested {
				return "", invalid("found a list in a list, accepted: text, a number, true, false, or a list of these")
			}
			s, err := scalar(e)
			if err != nil {
				return "", err
			}
			all = append(all, s)
		}
		return strings.Join(all, ","), nil
	}
	return "", invalid("found %s, accepted: text, a number, true, false, or a list of these", show(v))
}

// show is a TOML value in an error.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case map[string]any:
		return "a table"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}
