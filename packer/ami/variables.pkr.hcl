# Everything a build decides arrives in one JSON file that the builder writes; nothing is looked up here.
packer {
  required_version = ">= 1.6.6"
}

variable "run" {
  type        = string
  description = "Name of the run; part of every name and tag, so that nothing of it is ever lost."
}

variable "region" {
  type = string
}

variable "endpoint" {
  type        = string
  default     = ""
  description = "Another address of EC2, as a rehearsal has; empty for the account's own."
}

variable "source_ami" {
  type        = string
  description = "From the lock."
  validation {
    condition     = regex_replace(var.source_ami, "^ami-[0-9a-f]{8,17}$", "") == ""
    error_message = "The source AMI must be an id such as ami-0123456789abcdef0."
  }
}

variable "instance_type" {
  type = string
}

variable "ami_name" {
  type = string
}

variable "ami_description" {
  type = string
}

variable "tags" {
  type        = map(string)
  description = "For the image, its snapshots, and all that the build starts."
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
  description = "Where Packer writes what it made."
}
