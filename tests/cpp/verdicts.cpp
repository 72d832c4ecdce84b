// What dd_open says of each folder whose path comes as a line of stdin: its status and message, a line each.
#include <iostream>
#include <string>

#include "dashdeploy/dashdeploy.h"

int main() {
  for (std::string folder; std::getline(std::cin, folder);) {
    dd_open_options options{};
    options.size = sizeof options;
    options.threads = 1;
    dd_model *model = nullptr;
    dd_message message;
    const dd_status status = dd_open(folder.c_str(), &options, &model, &message);
    dd_close(model);
    std::cout << dd_status_name(status) << "\t" << message.text << std::endl;
  }
}
