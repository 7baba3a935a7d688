# Read by `packer init packer/plugins` alone: Packer before 1.7 refuses this block, and has both built in.
# The versions are those of catalog/packer.toml.
packer {
  required_version = ">= 1.7"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "= 1.8.2"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = "= 1.1.6"
    }
  }
}
