// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Result says how one check went.
type Result struct {
	Name string
	// State is Yes, No or Failed.
	State State
	// Why is what the engine said, or what was wrong.
	Why string
}

// State is how a check ended.
type State string

// The states. No is an orderly one: the engine says that it does not do this.
// It may crash of what no engine has to know.
const (
	Yes     State = "yes"
	No      State = "no"
	Crashes State = "crashes"
	Failed  State = "FAILED"
)

// Report is what an engine can do.
type Report struct {
	Engine  string // name and version
	Results []Result
}

// Failed says whether something is wrong with the engine, rather than missing.
func (r Report) Failed() bool {
	for _, c := range r.Results {
		if c.State == Failed {
			return true
		}
	}
	return false
}

// checkTimeout is how long one check may take: so long that only what hangs
// meets it.
const checkTimeout = time.Minute

// Run makes every check on a shim's binary; it needs root. each, which may be
// nil, is called with every result as soon as there is one.
func Run(ctx context.Context, binary string, each func(Result)) (_ Report, retErr error) {
	if os.Geteuid() != 0 {
		return Report{}, errors.New("the kit runs containers, which needs root")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return Report{}, err
	}
	engine, err := engineOf(ctx, binary)
	if err != nil {
		return Report{}, err
	}
	dir, err := os.MkdirTemp("", "wasmshim-test-")
	if err != nil {
		return Report{}, err
	}
	defer func() { retErr = errors.Join(retErr, os.RemoveAll(dir)) }()
	s := &suite{binary: binary, dir: dir}
	report := Report{Engine: engine}
	for _, c := range checks {
		result := s.check(ctx, c)
		report.Results = append(report.Results, result)
		if each != nil {
			each(result)
		}
		if c.name == "runs one of them" && result.State != Yes {
			break
		}
	}
	return report, ctx.Err()
}

func (s *suite) check(ctx context.Context, c check) Result {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := c.run(ctx, s)
	switch {
	case err == nil:
		return Result{c.name, Yes, ""}
	case errors.Is(err, errCrash):
		return Result{c.name, Crashes, err.Error()}
	case errors.Is(err, errNo):
		return Result{c.name, No, strings.TrimPrefix(err.Error(), errNo.Error()+": ")}
	}
	return Result{c.name, Failed, err.Error()}
}

var engineLine = regexp.MustCompile(`(?m)^\s*Engine:\s+(.*)$`)

// engineOf asks a binary what it is.
func engineOf(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", binary, err, out)
	}
	m := engineLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s --version names no engine; is it a shim of this library? It printed:\n%s", binary, out)
	}
	return string(m[1]), nil
}

// Markdown writes a table of several engines' reports.
func Markdown(w io.Writer, reports []Report) error {
	var b strings.Builder
	b.WriteString("| |")
	for _, r := range reports {
		// Without what follows the version in parentheses.
		engine, _, _ := strings.Cut(r.Engine, " (")
		fmt.Fprintf(&b, " %s |", engine)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(reports)+1) + "\n")
	for i := range reports[0].Results {
		fmt.Fprintf(&b, "| %s |", reports[0].Results[i].Name)
		for _, r := range reports {
			fmt.Fprintf(&b, " %s |", r.Results[i].State)
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
