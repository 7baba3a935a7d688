# Applies the roles of the benchmark with Packer's docker builder and ansible provisioner over the docker connection, in
# one play and one commit. Packer 1.6 includes both plugins.
variable "base" {
  type = string
}

variable "container" {
  type = string
}

variable "tag" {
  type = string
}

variable "folder" {
  type = string
}

variable "ansible" {
  type = string
}

variable "ansible_playbook" {
  type = string
}

variable "collections" {
  type = string
}

source "docker" "image" {
  image  = var.base
  pull   = false
  commit = true
  # Resets the entry point of the build.
  changes = ["ENTRYPOINT []", "CMD [\"bash\"]"]
  run_command = [
    "-d", "-i", "-t", "--name", var.container, "--network", "host", "--pull", "never",
    "--tmpfs", "/tmp:mode=1777", "--tmpfs", "/var/tmp:mode=1777", "--tmpfs", "/run:mode=0755",
    "--entrypoint", "/bin/sh", "--", "{{.Image}}",
  ]
  volumes = {
    "${var.folder}/apt"                = "/var/cache/apt"
    "${var.folder}/lists"              = "/var/lib/apt/lists"
    "${var.folder}/tools/sources.list" = "/etc/apt/sources.list:ro"
    "${var.folder}/tools/packages"     = "/dev/factory/packages:ro"
    "${var.folder}/tools/run"          = "/dev/factory/run:ro"
  }
}

build {
  sources = ["source.docker.image"]

  provisioner "ansible" {
    command            = var.ansible_playbook
    playbook_file      = "${var.ansible}/image.yml"
    use_proxy          = false
    skip_version_check = true
    extra_arguments = [
      "-e", "@${var.folder}/tools/run/variables.json",
      "-e", "@${var.folder}/connection.json",
    ]
    ansible_env_vars = [
      "ANSIBLE_CONFIG=${var.ansible}/ansible.cfg",
      "ANSIBLE_COLLECTIONS_PATH=${var.collections}",
      "ANSIBLE_HOME=${var.folder}/home",
      "ANSIBLE_PIPELINING=1",
      "ANSIBLE_REMOTE_TEMP=/tmp/ansible",
    ]
  }

  post-processor "docker-tag" {
    repository = split(":", var.tag)[0]
    tag        = [split(":", var.tag)[1]]
  }
}
