# All values come from a JSON file that the builder writes; the templates look up nothing.
packer {
  required_version = ">= 1.6.6"
}

variable "run" {
  type        = string
  description = "Name of the run; part of all names and tags, so that leftovers can be found."
}

variable "region" {
  type = string
}

variable "endpoint" {
  type        = string
  default     = ""
  description = "EC2 endpoint of a rehearsal; empty for the default endpoint of the region."
}

variable "source_ami" {
  type        = string
  description = "Locked ID of the base image."
  validation {
    condition     = regex_replace(var.source_ami, "^ami-[0-9a-f]{8,17}$", "") == ""
    error_message = "The source AMI must be an id such as ami-0123456789abcdef0."
  }
}

variable "instance_type" {
  type = string
}

variable "spot_types" {
  type        = list(string)
  default     = []
  description = "Instance types of a spot instance, of which EC2 selects one; empty for an instance on demand."
}

variable "capacity" {
  type = object({
    preference  = string
    reservation = string
  })
  default = {
    preference  = ""
    reservation = ""
  }
  description = "Capacity reservation of the build instance; only current plugins use it."
}

variable "ami_name" {
  type = string
}

variable "ami_description" {
  type = string
}

variable "tags" {
  type        = map(string)
  description = "Tags of the AMI, its snapshots and all resources that the build creates."
}

variable "volume" {
  type = object({
    device     = string
    size_gib   = number
    iops       = number
    throughput = number
    encrypted  = bool
    kms_key    = string
  })
}

variable "ssh" {
  type = object({
    user      = string
    keypair   = string
    key_file  = string
    port      = number
    timeout   = string
    interface = string
  })
}

variable "network" {
  type = object({
    subnet               = string
    security_group       = string
    public_address       = bool
    iam_instance_profile = string
  })
}

variable "polling" {
  type = object({
    delay_s  = number
    attempts = number
  })
}

variable "ansible" {
  type = object({
    command        = string
    playbook       = string
    variables_file = string
  })
}

variable "manifest" {
  type        = string
  description = "File to which Packer writes its manifest."
}
