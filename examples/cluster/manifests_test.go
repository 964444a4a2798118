package main

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// asked returns the variables of the environment that a configuration asks for.
func asked(pattern string, config []byte) map[string]bool {
	names := make(map[string]bool)
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(config, -1) {
		names[string(m[1])] = true
	}
	return names
}

// askedOf returns what a service or container asks for, by the beginning of its
// name; nil if it has none of the configurations.
func askedOf(name string) map[string]bool {
	const ofCaddyfile = `\{(?:\$|env\.)(\w+)\}`
	switch {
	case strings.HasPrefix(name, "nats"):
		return asked(`\$(\w+)`, natsConfig)
	case strings.HasPrefix(name, "caddy"):
		return asked(ofCaddyfile, nodeCaddyfile)
	case name == "balancer":
		return asked(ofCaddyfile, balancerCaddyfile)
	default:
		return nil
	}
}

func compareAsked(t *testing.T, file, name string, given map[string]bool) {
	t.Helper()
	if want := askedOf(name); !maps.Equal(given, want) {
		t.Errorf("%s: %s is given %v; its configuration asks for %v", file, name, slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(want)))
	}
}

// The files for Docker and Kubernetes, which nobody runs here, can be read, and
// give each program what its configuration asks for.
func TestComposeGivesWhatIsAskedFor(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	must(t, err)
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
		}
	}
	must(t, yaml.Unmarshal(text, &compose))
	if len(compose.Services) != 8 {
		t.Errorf("there are %d services", len(compose.Services))
	}
	for name, service := range compose.Services {
		given := make(map[string]bool)
		for variable := range service.Environment {
			given[variable] = true
		}
		if askedOf(name) != nil {
			compareAsked(t, "compose.yaml", name, given)
		}
	}
}

func TestKubernetesGivesWhatIsAskedFor(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*.yaml")
	must(t, err)
	text, err := os.ReadFile("kustomization.yaml")
	must(t, err)
	var kustomization struct{ Resources []string }
	must(t, yaml.Unmarshal(text, &kustomization))
	slices.Sort(kustomization.Resources)
	if !slices.Equal(kustomization.Resources, files) {
		t.Errorf("kustomization.yaml has %v, there are %v", kustomization.Resources, files)
	}
	var kinds []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var object struct {
				Kind string
				Spec struct {
					Template struct {
						Spec struct {
							Containers []struct {
								Name string
								Env  []struct{ Name string }
							}
						}
					}
				}
			}
			if err := documents.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			kinds = append(kinds, object.Kind)
			for _, container := range object.Spec.Template.Spec.Containers {
				given := make(map[string]bool)
				for _, variable := range container.Env {
					given[variable.Name] = true
				}
				compareAsked(t, file, container.Name, given)
			}
		}
	}
	slices.Sort(kinds)
	if want := []string{"Deployment", "Ingress", "Namespace", "PodDisruptionBudget", "PodDisruptionBudget", "Secret", "Service", "Service", "StatefulSet"}; !slices.Equal(kinds, want) {
		t.Errorf("there are %v, want %v", kinds, want)
	}
}
