// SPDX-License-Identifier: Apache-2.0

// Mkguests builds the guest programs below a source directory into another.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/bytecodealliance/wasmtime-go/v44"
)

func main() {
	if err := build(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mkguests:", err)
		os.Exit(1)
	}
}

func build(src, out string) error {
	templates, err := template.ParseGlob(filepath.Join(src, "*.wat.tmpl"))
	if err != nil {
		return err
	}
	texts := map[string]string{} // by the guest's name
	for _, t := range templates.Templates() {
		if name, ok := strings.CutSuffix(t.Name(), ".wat.tmpl"); ok && name != "prelude" {
			var text bytes.Buffer
			if err := t.Execute(&text, nil); err != nil {
				return err
			}
			texts[name] = text.String()
		}
	}
	plain, err := filepath.Glob(filepath.Join(src, "*.wat"))
	if err != nil {
		return err
	}
	for _, file := range plain {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		texts[strings.TrimSuffix(filepath.Base(file), ".wat")] = string(text)
	}
	for name, text := range texts {
		wasm, err := wasmtime.Wat2Wasm(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for suffix, data := range map[string][]byte{".wat": []byte(text), ".wasm": wasm} {
			if err := os.WriteFile(filepath.Join(out, name+suffix), data, 0o600); err != nil {
				return err
			}
		}
	}
	for _, script := range []string{"script.sh", "sleeper.sh"} {
		data, err := os.ReadFile(filepath.Join(src, script))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, script), data, 0o600); err != nil {
			return err
		}
	}
	if err := run("gcc", "-static", "-Os", "-s", "-o", filepath.Join(out, "native"), filepath.Join(src, "native.c")); err != nil {
		return err
	}
	program := filepath.Join(src, "go/main.go")
	if err := run("go", "build", "-ldflags=-s -w", "-o", filepath.Join(out, "go.native"), program); err != nil {
		return err
	}
	return run("env", "GOOS=wasip1", "GOARCH=wasm", "go", "build", "-ldflags=-s -w", "-o", filepath.Join(out, "go.wasm"), program)
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
